"""The report of `bench`."""

import io

from rich.console import Console

from normsurgery.report import render
from normsurgery.report.bench import labels
from tests.report import bench_documents


def shown(document, width=100):
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    for part in render(document):
        console.print(part)
    return out.getvalue()


def test_ratios_come_first_with_intervals_and_words():
    text = shown(bench_documents.bench_document())
    assert text.index("1.250 [1.200, 1.300]") < text.index("Speed") < text.index("Size")
    assert "1.002 [0.990, 1.010] within noise" in text
    assert "0.900 too few runs" in text


def test_every_model_has_its_own_figures():
    lines = shown(bench_documents.bench_document()).splitlines()
    (prefill,) = [line for line in lines if "prefill" in line and "1,250 tokens" in line]
    assert prefill.split()[-4:] == ["102", "123", "154", "30"]
    assert any("768 MiB" in line and "1 GiB" in line.replace("1.0", "1") for line in lines)
    assert any("missing: a.b" in line for line in lines)


def test_a_column_says_the_mode_where_there_are_two():
    document = bench_documents.bench_document()
    assert "eager" not in shown(document)
    document["cells"].append({**document["cells"][0], "mode": "compiled"})
    text = shown(document)
    assert "eager" in text and "compiled" in text


def test_one_model_has_no_ratios_and_may_have_no_memory():
    document = bench_documents.bench_document()
    document["models"] = document["models"][:1]
    document["models"][0]["memory"] = None
    assert "interval" not in shown(document)


def test_models_of_one_name_are_numbered():
    assert labels([{"model": "a"}, {"model": "b"}, {"model": "a"}]) == ["a (1)", "b", "a (3)"]
