"""The checks of a verification as rows: what was measured, what is allowed, whether it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normsurgery.report.numbers import ABSENT, figure, percent

Figures = Mapping[str, Any]
Row = tuple[str, list[str], str, bool | None]  # check, measured per form, allowed, passed


def forms_of(verification: Figures) -> dict[str, Figures]:
    """The figures by form; a verification of one form alone is called `measured`."""
    forms = {name: one for name, one in verification.items() if _is_form(one)}
    return forms or {"measured": verification}


def _is_form(value: object) -> bool:
    return isinstance(value, dict) and "verdict" in value


def checks(forms: Mapping[str, Figures]) -> list[Row]:
    """Every figure that the forms have, those that decide the verdict first."""
    rows = _output_checks(forms)
    rows.append(_load_check(forms))
    rows += [row for row in (_text_check(forms), _linearity_check(forms)) if row]
    rows += [row for row in _remarks(forms) if set(row[1]) != {ABSENT}]
    return rows


def _output_checks(forms: Mapping[str, Figures]) -> list[Row]:
    """The error of each output of the model, against what its contract allows."""
    first = next(iter(forms.values()))
    unit = "max / std" if first.get("noise_floor") is None else "× noise floor"
    judged = first["contract"] == "exact"
    rows: list[Row] = []
    for name in first.get("outputs") or {}:
        found = [(one.get("outputs") or {}).get(name) or {} for one in forms.values()]
        ratios = [one.get("ratio") for one in found]
        allowed = found[0].get("allowed")
        passed = all(r is not None and r <= allowed for r in ratios) if judged else None
        limit = figure(allowed) if judged else ABSENT
        check = f"{name}, {first['dtype']} ({unit})"
        rows.append((check, [figure(r) for r in ratios], limit, passed))
    return rows


_LOAD_KEYS = ("missing", "unexpected", "mismatched", "errors")


def _load_check(forms: Mapping[str, Figures]) -> Row:
    reports = [one["load_report"] for one in forms.values()]
    counts = [sum(len(report[key]) for key in _LOAD_KEYS) for report in reports]
    return "load report (bad keys)", [str(count) for count in counts], "0", not any(counts)


def _text_check(forms: Mapping[str, Figures]) -> Row | None:
    """Whether the greedy texts agree; a difference may be one that the reference cannot tell."""
    texts = [one.get("generation") for one in forms.values()]
    if not any(texts):
        return None
    passed = all(d["excused"] for text in texts if text for d in text["divergences"])
    judged = next(iter(forms.values()))["contract"] == "exact"
    length = next(text["new_tokens"] for text in texts if text)
    return (
        f"greedy text ({length} tokens)",
        [_same_text(text) for text in texts],
        "same" if judged else ABSENT,
        passed if judged else None,
    )


def _same_text(text: Figures | None) -> str:
    if text is None:
        return ABSENT
    if not text["divergences"]:
        return "same"
    excused = all(divergence["excused"] for divergence in text["divergences"])
    rows = len({divergence["row"] for divergence in text["divergences"]})
    return f"{rows}/{text['rows']} {'tie' if excused else 'differ'}"


def _linearity_check(forms: Mapping[str, Figures]) -> Row | None:
    """How far the logits are from the sum of what the blocks contribute, where that was asked."""
    found = [one.get("linearity") or {} for one in forms.values()]
    if not any(found):
        return None
    errors = [figure(one.get("error")) for one in found]
    allowed = next(one["allowed"] for one in found if one)
    passed = all(one["passed"] for one in found if one)
    return "logits − Σ contributions (max / std)", errors, figure(allowed), passed


def _remarks(forms: Mapping[str, Figures]) -> list[Row]:
    """Figures that inform and decide nothing."""

    def row(name: str, *keys: str, say: Any = figure) -> Row:
        return name, [say(_at(one, *keys)) for one in forms.values()], ABSENT, None

    def nats(value: float | None) -> str:
        return ABSENT if value is None else f"{value:.4f}"

    return [
        row("largest difference", "logits", "max"),
        row("mean difference", "logits", "mean"),
        row("largest KL divergence (nats)", "kl", "max"),
        row("top-1 agreement", "top1", say=percent),
        row("loss, reference (nats)", "loss", "reference", "mean", say=nats),
        row("loss, candidate (nats)", "loss", "candidate", "mean", say=nats),
    ]


def _at(figures: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(figures, Mapping):
            return None
        figures = figures.get(key)
    return figures
