"""The parts of documents that pictures are drawn of, short."""

from __future__ import annotations

from typing import Any

FIGURES = {"mean": 3.0, "median": 2.5, "p999": 11.0, "max": 14.0}


def scores(blocks=12, size=3, **methods: Any) -> list[dict[str, Any]]:
    chosen = methods or {"angular": lambda i: abs(i - 5), "fit": lambda i: -i}
    return [
        {"blocks": list(range(i, i + size)), **{n: make(i) for n, make in chosen.items()}}
        for i in range(blocks - size + 1)
    ]


def losses(*domains: str, **models: dict[str, Any]) -> dict[str, Any]:
    tables = models or {"original": FIGURES, "control": FIGURES, "result": FIGURES}
    return {"losses": {domain: {"source": {"source": domain}, **tables} for domain in domains}}


def statistics(blocks=3) -> dict[str, Any]:
    paths = [(f"model.layers.{i}.{name}", kind) for i in range(blocks) for name, kind in _SITES]
    rows = [(*path, 0.5 * (n + 1)) for n, path in enumerate([*paths, ("model.norm", "final")])]
    return {
        "statistics": [
            {"path": path, "kind": kind, "sigma": sigma, "first": 40 * sigma, "end": None}
            for path, kind, sigma in rows
        ]
    }


_SITES = (("input_layernorm:qk", "qk"), ("post_attention_layernorm", "mlp"))


def kurtosis(blocks=3) -> dict[str, Any]:
    return {
        "kurtosis": {
            "tokens": 2048,
            "blocks": [
                {
                    "block": f"model.layers.{i}",
                    "before": {"kurtosis": 30.0 + i},
                    "after": {"kurtosis": 2.9 + i / 10},
                    "position_0": {"before": {"kurtosis": 900.0}, "after": {"kurtosis": 3.1}},
                }
                for i in range(blocks)
            ],
        }
    }


def training(steps=12) -> dict[str, Any]:
    curve = [[step, 4.0 - step / 100] for step in range(1, steps + 1)]
    return {
        "training": {
            "loss": [[step, value / 2] for step, value in curve],
            "ce": curve,
            "rollbacks": [{"step": 7, "back_to": 4, "paths": ["h.0.ln_2"]}],
        },
        "control": {"loss": [[step, value - 0.1] for step, value in curve]},
        "paths": [
            {"path": "h.0.ln_2", "kind": "mlp"},
            {"path": "h.1.ln_2", "kind": "mlp"},
            {"path": "ln_f", "kind": "final"},
        ],
        "events": [
            {"step": 2, "action": "remove", "paths": ["h.0.ln_2", "h.1.ln_2"]},
            {"step": 5, "action": "remove", "paths": ["ln_f"]},
            {"step": 8, "action": "merge", "paths": ["end"]},
            {"step": 9, "action": "merge", "paths": ["first"]},
        ],
    }


def everything() -> dict[str, Any]:
    """A document with the figures of every picture."""
    return {
        "scores": scores(), "blocks": {"dropped": [5, 6, 7]}, **kurtosis(), **training(),
        **statistics(), **losses("prose", "drama"),
    }  # fmt: skip
