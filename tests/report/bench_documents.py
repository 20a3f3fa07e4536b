"""Documents of `bench` and `eval`, for tests of what is printed. Figures invented."""

from __future__ import annotations

from typing import Any

from tests.report import documents


def ratio(value: float, low: float | None, high: float | None, words: str) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "pairs": 10, "words": words}


def latency(p50: float) -> dict[str, Any]:
    return {"mean": p50 * 1.1, "p50": p50, "p90": p50 * 1.2, "p99": p50 * 1.5, "count": 10}


def bench_document() -> dict[str, Any]:
    faster, alike = ratio(1.25, 1.2, 1.3, ""), ratio(1.002, 0.99, 1.01, "within noise")
    few = ratio(0.9, None, None, "too few runs")

    def model(name: str, load: dict[str, Any] | None) -> dict[str, Any]:
        memory = {"before_load": 2**28, "loaded": 2**29, "peak": 2**30, "cuda_peak": None}
        return {
            **documents.source(), "model": name, "parameter_bytes": 649_291_776,
            "load": {"latency": latency(0.4), "speedup": load}, "memory": memory,
        }  # fmt: skip

    def measure(compared: dict[str, Any], unit: str = "tokens") -> dict[str, Any]:
        return {
            "speedup": [None, compared], "per_second": [1000.0, 1250.0], "unit": unit,
            "latency": [latency(0.128), latency(0.1024)],
        }  # fmt: skip

    return {
        "command": "bench",
        "version": "0.1.0",
        "models": [model("EleutherAI/pythia-160m", None), model("pythia-rms", few)],
        "cells": [
            {
                "mode": "eager", "batch": 1, "length": 128,
                "flops": [31_000_000_000, 30_000_000_000],
                "measures": {"prefill": measure(faster), "decode": measure(alike)},
            }
        ],
        "settings": {
            "dtype": "float32", "device": "cpu", "threads": 2, "repeats": 10, "warmup": 2,
            "new_tokens": 32, "seed": 0, "data": "made up", "torch": "2.13.0",
        },
        "notes": ["pythia-rms: missing: a.b"],
        "seconds": 12.5,
        "peak_memory_bytes": 2**31,
    }  # fmt: skip


def eval_document() -> dict[str, Any]:
    def losses(mean: float) -> dict[str, Any]:
        return {
            "mean": mean, "median": 2.5, "p999": 11.0, "max": 14.0, "tokens": 1000,
            "perplexity": 2.718281828**mean,
        }  # fmt: skip

    return {
        "command": "eval",
        "version": "0.1.0",
        "source": documents.source(),
        "candidate": {**documents.source(), "model": "pythia-rms", "revision": None},
        "perplexity": {
            "source": {"source": "sample:prose", "tokens": 1010, "rows": 10},
            "reference": losses(3.0),
            "candidate": losses(3.1),
            "difference": {"value": 0.1, "error": 0.01, "within_noise": False},
            "ratio": {"value": 1.105, "low": 1.084, "high": 1.127},
        },
        "tasks": [
            {
                "task": "lambada_openai", "metric": "acc", "filter": "none", "shots": 0,
                "samples": 5153, "higher_is_better": True,
                "reference": {"value": 0.32, "error": 0.0065},
                "candidate": {"value": 0.318, "error": 0.0065},
                "difference": {"value": -0.002, "error": 0.004, "within_noise": True},
                "paired": True,
            }
        ],
        "notes": [],
        "settings": {
            "dtype": "float32", "device": "cpu", "limit": None, "seed": 0, "lm_eval": "0.4.13",
        },
        "seconds": 12.5,
        "peak_memory_bytes": 2**31,
    }  # fmt: skip
