"""What `bench` found: ratios first, then every model's own figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import ABSENT, figure, memory_size, short_count
from normsurgery.report.tables import facts, plain_table, section, title
from normsurgery.report.verification import ending, source_name

Figures = Mapping[str, Any]
_STYLES = {"within noise": "dim", "too few runs": "yellow"}


def bench_report(document: dict[str, Any]) -> list[RenderableType]:
    """The report of `bench`."""
    models = labels(document["models"])
    parts: list[RenderableType] = [
        title("bench", " ↔ ".join(source_name(m) for m in document["models"])),
        facts([("run in", _settings(document["settings"]))]),
    ]
    if len(models) > 1:
        heading = f"Times as fast as {models[0]}  (> 1 is faster; 95 % interval)"
        parts += section(heading, _ratios(document, models))
    parts += section("Speed", _speeds(document, models))
    parts += section("Size", _sizes(document["models"], models))
    if document["notes"]:
        parts += section("Remarks", facts([("·", note) for note in document["notes"]]))
    return [*parts, Text(), ending(document)]


def labels(models: Sequence[Figures]) -> list[str]:
    """Names of columns: numbered where two models have one name."""
    names = [str(model["model"]) for model in models]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def ratio_text(ratio: Figures) -> Text:
    """`1.08 [1.05, 1.11]`, or with the words that stand for the interval's verdict."""
    text = Text(f"{ratio['value']:.3f}")
    if ratio["low"] is not None:
        text.append(f" [{ratio['low']:.3f}, {ratio['high']:.3f}]")
    if ratio["words"]:
        text.append(f" {ratio['words']}", _STYLES.get(ratio["words"], ""))
    return text


def _settings(settings: Figures) -> str:
    rounds = f"{settings['repeats']} rounds in turns, {settings['warmup']} before not counted"
    new = f", {settings['new_tokens']} new tokens" if settings["new_tokens"] else ""
    return (
        f"{settings['dtype']} on {settings['device']}, {settings['threads']} threads; "
        f"{rounds}{new}; inputs: {settings['data']}; torch {settings['torch']}"
    )


def _cells(document: Figures) -> Iterator[tuple[list[str], Figures, Figures]]:
    """What each row of a table is about (see `_about`), the measure's figures, and its cell."""
    several = len({cell["mode"] for cell in document["cells"]}) > 1
    for cell in document["cells"]:
        for name, measure in cell["measures"].items():
            mode = [cell["mode"]] if several else []
            yield [name, *mode, str(cell["batch"]), figure(cell["length"])], measure, cell


def _about(document: Figures) -> list[str]:
    """The first columns; no column for the mode where there is one."""
    several = len({cell["mode"] for cell in document["cells"]}) > 1
    return ["measure", *(["mode"] if several else []), "batch", "length"]


def _ratios(document: Figures, models: Sequence[str]) -> RenderableType:
    about = _about(document)
    rows: list[list[str | Text]] = [
        [*first, *(ratio_text(ratio) for ratio in measure["speedup"][1:])]
        for first, measure, _ in _cells(document)
    ]
    loads = [ratio_text(model["load"]["speedup"]) for model in document["models"][1:]]
    rows.append(["load", *[ABSENT] * (len(about) - 1), *loads])
    return plain_table([*about, *models[1:]], rows, right=range(len(about) - 2, len(about)))


def _speeds(document: Figures, models: Sequence[str]) -> RenderableType:
    about = _about(document)
    rows = []
    for first, measure, cell in _cells(document):
        for i, model in enumerate(models):
            latency = measure["latency"][i]
            flops = ABSENT if first[0] == "decode" else figure(cell["flops"][i] / 1e9)
            rows.append([
                *first, model, f"{figure(measure['per_second'][i])} {measure['unit']}",
                *(figure(1000 * latency[share]) for share in ("p50", "p90", "p99")), flops,
            ])  # fmt: skip
    columns = [*about, "model", "per second", "p50 ms", "p90", "p99", "GFLOP"]
    numbers = {*range(len(about) - 2, len(about)), *range(len(about) + 1, len(columns))}
    whole = set(range(len(columns))) - {len(about)}  # of names alone there is no telling how long
    return plain_table(columns, rows, right=numbers, whole=whole)


def _sizes(models: Sequence[Figures], names: Sequence[str]) -> RenderableType:
    rows = [
        [
            name,
            short_count(model["parameters"]),
            memory_size(model["parameter_bytes"]),
            f"{figure(model['load']['latency']['p50'])} s",
            *_memory(model["memory"]),
        ]
        for name, model in zip(names, models, strict=True)
    ]
    columns = ["model", "parameters", "weights", "load (median)", "peak of process", "of model"]
    return plain_table([*columns, "peak on GPU"], rows, right=range(1, 7))


def _memory(memory: Figures | None) -> list[str]:
    """The largest resident size, what it grew by from loading on, and CUDA's own peak."""
    if memory is None:
        return [ABSENT] * 3
    grown = memory["peak"] - memory["before_load"]
    return [memory_size(memory["peak"]), memory_size(grown), memory_size(memory["cuda_peak"])]
