"""Results in a notebook: what the terminal's report says, in tables, with every text escaped."""

import html
import re

import pytest

import normsurgery
from normsurgery.api.result import Result
from normsurgery.api.run import RunResult
from normsurgery.recipe import Recipe
from normsurgery.report.html import html_report
from tests.report import bench_documents, documents
from tests.report.test_render import shown

MAKERS = [
    documents.convert_document,
    documents.fold_bn_document,
    documents.fold_document,
    documents.heal_document,
    documents.inspect_document,
    documents.plan_document,
    documents.prune_document,
    documents.remove_ln_document,
    documents.verify_document,
    bench_documents.bench_document,
    bench_documents.eval_document,
]


def text_of(piece):
    """What a browser shows of it."""
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", piece, flags=re.DOTALL))


@pytest.mark.parametrize("make", MAKERS)
def test_it_says_what_the_terminal_says(make):
    piece = html_report(make())
    # a terminal has a `·` before each point of a list
    said = re.findall(r"[^\s·]+", text_of(piece))
    assert said == re.findall(r"[^\s·]+", shown(make(), width=10_000))
    assert piece.startswith('<div class="normsurgery">') and piece.endswith("</div>")


def test_tables_are_tables_and_figures_stand_right():
    piece = html_report(documents.convert_document())
    assert '<th scope="col">surgery</th>' in piece
    assert re.search(r'<td class="number">\d+</td>', piece)
    assert piece.count("<table") == piece.count("</table>") > 3


def test_lines_to_copy_keep_their_breaks():
    piece = html_report(documents.convert_document())
    (code,) = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", piece, flags=re.DOTALL)
    lines = html.unescape(code).splitlines()
    assert lines[0].startswith("from transformers import") and len(lines) > 1


def test_a_verdict_has_its_colour():
    passed, failed = (html_report(documents.verify_document(v)) for v in ("pass", "fail"))
    assert '<span class="pass">pass</span>' in passed
    assert '<span class="fail">fail</span>' in failed


def test_names_cannot_add_elements():
    document = documents.convert_document()
    known = set(re.findall(r"<\s*/?\s*(\w+)", html_report(document)))
    document["source"]["model"] = "<img src=x onerror=alert(1)>&amp;"
    document["notes"] = ["</pre><script>alert(2)</script>"]
    piece = html_report(document)
    assert set(re.findall(r"<\s*/?\s*(\w+)", piece)) <= known | {"ul", "li"}
    assert "<img src=x onerror=alert(1)>&amp;" in text_of(piece)


@pytest.mark.parametrize("name", [x for x in normsurgery._HOME_OF if x.endswith("Result")])
def test_every_result_has_it(name):
    assert callable(getattr(getattr(normsurgery, name), "_repr_html_", None))


def test_a_result_is_shown_as_its_document():
    document = documents.convert_document()
    assert Result(document)._repr_html_() == html_report(document)
    recipe = Recipe("gpt2", "out", (), {})
    run = RunResult(document, recipe)
    assert run._repr_html_() == html_report(run.to_dict())


def test_nothing_is_printed(capsys):
    Result(documents.inspect_document())._repr_html_()
    assert capsys.readouterr() == ("", "")
