"""Documents of the shape that the API returns, for tests of what is printed. Figures invented."""

from __future__ import annotations

from typing import Any


def source() -> dict[str, Any]:
    return {
        "model": "EleutherAI/pythia-160m",
        "revision": "50f5173d932e8e61f858120bcb800b97af589f46",
        "model_type": "gpt_neox",
        "architecture": "GPTNeoXForCausalLM",
        "parameters": 162_322_944,
        "bytes": 324_645_888,
        "dtype": "F16",
    }


def form(verdict: str = "pass", ratio: float = 0.97) -> dict[str, Any]:
    spread = {"mean": 3.1234, "median": 2.5, "p999": 11.0, "max": 14.0}
    figures = {
        "max": 0.0313,
        "p999": 0.011,
        "mean": 0.0021,
        "std": 2.2,
        "max_over_std": 0.014,
        "ratio": ratio,
        "allowed": 3.0,
    }
    return {
        "verdict": verdict,
        "contract": "exact",
        "dtype": "float16",
        "device": "cpu",
        "tokens": 1024,
        "noise_floor": {"max": 0.03, "p999": 0.01, "mean": 0.002, "against": "float32"},
        "logits": {**figures, "output": "logits"},
        "kl": {"mean": 1.2e-7, "p999": 4e-6, "max": 9.4e-6},
        "top1": 0.9990,
        "loss": {"reference": spread, "candidate": spread},
        "generation_identical": True,
        "load_report": {"missing": [], "unexpected": [], "mismatched": [], "errors": []},
        "position_0": None,
        "outputs": {"logits": figures},
        "generation": {"rows": 4, "new_tokens": 16, "divergences": []},
        "reasons": [] if verdict == "pass" else ["logits: error is 9 × the noise floor"],
        "notes": [],
    }


def verification(verdict: str = "pass", ratio: float = 0.97) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "contract": "exact",
        "stock": form(verdict, ratio),
        "graft": form("pass", 0.41),
    }


def receipt() -> dict[str, Any]:
    return {
        "surgery": "centre",
        "contract": "exact",
        "parameters": {},
        "tensors": {"kept": 99, "changed": 49, "added": 0, "dropped": 0},
        "config": {},
        "norms": {"before": {"LayerNorm": 25}, "after": {"RMSNorm": 25}},
        "notes": [],
    }


def convert_document(verdict: str = "pass", ratio: float = 0.97) -> dict[str, Any]:
    return {
        "command": "convert",
        "version": "0.1.0",
        "source": source(),
        "output": "out",
        "target": {
            "form": "stock",
            "architecture": "GPTNeoXForCausalLM",
            "auto_class": "AutoModelForCausalLM",
            "auto_classes": ["AutoModelForCausalLM"],
            "engines": ["transformers"],
            "why": "centred weights are the same function in the stock class",
        },
        "receipts": [receipt()],
        "proof": {
            "dtype": "float64",
            "bound": 1e-9,
            "errors": {"stock": 2.9e-14, "graft": 3.1e-14},
            "controls": {"stock": 0.4, "graft": 0.5},
            "probe": 1e-15,
            "outputs": ["logits"],
        },
        "notes": ["not guaranteed: hidden_states shows the stream's mean"],
        "verification": verification(verdict, ratio),
        "seconds": 4.23,
        "peak_memory_bytes": 64_000_000,
    }


def arrange_document() -> dict[str, Any]:
    document = convert_document()
    receipt_ = {**receipt(), "surgery": "arrange", "contract": "lossy", "norms": {}}
    return {
        **document,
        "command": "arrange",
        "target": {**document["target"], "modeling_file": False},
        "receipts": [receipt_],
        "blocks": {
            "stack": "gpt_neox.layers", "before": 12, "after": 10,
            "order": [*range(6), "zero", *range(9, 12)], "dropped": [6, 7, 8],
        },
        "verification": {"verdict": "pass", "contract": "lossy", "stock": form()},
    }  # fmt: skip


def fold_bn_document() -> dict[str, Any]:
    """A result of `fold-bn`: two stages of three norms folded, one left."""
    names = [f"stages.{stage}.layers.{layer}.norm" for stage in range(2) for layer in range(3)]
    norms = [
        {
            "name": name, "class": "BatchNorm2d", "kind": "producer",
            "into": [f"{name.removesuffix('norm')}conv.weight"], "gone": False, "reason": None,
        }
        for name in names
    ]  # fmt: skip
    left: dict[str, Any] = {
        "kind": "stays",
        "into": [],
        "reason": "relu between it and stages.2.conv",
    }
    norms.append({**norms[0], **left, "name": "stages.2.norm"})
    changed = {"kept": 14, "changed": 24, "added": 0, "dropped": 0}
    counts = {"before": {"BatchNorm": 7}, "after": {"BatchNorm": 1}}
    folded = {**receipt(), "surgery": "fold-bn-keep", "tensors": changed, "norms": counts}
    return {
        **convert_document(),
        "command": "fold-bn",
        "target": {**convert_document()["target"], "modeling_file": False},
        "batch_norms": {
            "form": "keep", "folded": 6, "left": 1, "merged_maps": 0, "merges_left": {},
            "norms": norms,
        },
        "receipts": [folded],
        "notes": ["inference only: in train mode a BatchNorm takes its statistics from the batch"],
    }  # fmt: skip


def fold_document() -> dict[str, Any]:
    """A result of `fold`: norms folded but for two, layer scale not there, the stream rotated."""
    left = {f"model.layers.{i}.q_norm": f"model.layers.{i}.attn reads it" for i in range(2)}
    figures = {"kurtosis": 812.5, "largest_over_median": 41.25}
    rotated = {"kurtosis": 3.02, "largest_over_median": 1.5}
    return {
        **convert_document(),
        "command": "fold",
        "target": {**convert_document()["target"], "modeling_file": False},
        "receipts": [{**receipt(), "surgery": "norm", "norms": {}}],
        "folds": [
            {
                "name": "layerscale", "applies": False, "count": 0, "left": {}, "notes": [],
                "why_not": "no per-channel gain stands straight after a linear",
            },
            {
                "name": "norm", "applies": True, "count": 1234, "left": left, "notes": [],
                "why_not": None,
            },
        ],
        "kurtosis": {
            "measured": True, "why_not": None, "tokens": 2144,
            "blocks": [
                {
                    "block": "model.layers.0", "before": figures, "after": rotated,
                    "position_0": {"before": None, "after": None},
                }
            ],
        },
    }  # fmt: skip


def recalibrate_document() -> dict[str, Any]:
    """A result of `fold --what recalibrate`."""
    made = fold_document()
    del made["kurtosis"], made["proof"]
    held = {"loss": 0.5, "accuracy": 0.875, "error": None}
    return {
        **made,
        "folds": [
            {
                "name": "recalibrate", "applies": True, "count": 7, "left": {}, "notes": [],
                "why_not": None,
            }
        ],
        "recalibration": {
            "norms": 7, "reinserted": 2, "samples": 384, "held_out": 128, "data": {},
            "before": {**held, "loss": 2.25, "accuracy": 0.25}, "after": held,
        },
    }  # fmt: skip


def plan_document() -> dict[str, Any]:
    document = convert_document()
    document["output"] = None
    document["verification"] = {"verdict": "skipped", "contract": "exact"}
    document["plan"] = {
        "bytes": 324_645_888,
        "disk_free": 10**12,
        "disk_needed": 324_700_000,
        "peak_memory_bytes": 900 * 2**20,
        "config_diff": {"auto_map": [None, {"AutoModelForCausalLM": "modeling_rmsnorm.X"}]},
        "contract": "exact",
        "tensors": {"kept": 99, "changed": 49, "added": 0, "dropped": 0},
    }
    return document


def verify_document(verdict: str = "pass", ratio: float = 0.97) -> dict[str, Any]:
    return {
        "command": "verify",
        "version": "0.1.0",
        "source": source(),
        "candidate": {**source(), "model": "out", "revision": None},
        "verification": form(verdict, ratio),
        "seconds": 2.0,
        "peak_memory_bytes": 700_000_000,
    }


def inspect_document(blocks: int = 12) -> dict[str, Any]:
    layers = range(blocks)
    norms = [
        {"name": f"gpt_neox.layers.{i}.{site}", "kind": "LayerNorm", "role": role, "width": 768}
        for i in layers
        for site, role in (("input_layernorm", "attention"), ("post_attention_layernorm", "mlp"))
    ]
    last = {
        "name": "gpt_neox.final_layer_norm", "kind": "LayerNorm", "role": "final", "width": 768,
    }  # fmt: skip
    writers = [
        {"name": f"gpt_neox.layers.{i}.{module}", "kind": "linear", "tensor": f"l.{i}.weight"}
        for i in layers
        for module in ("attention.dense", "mlp.dense_4h_to_h")
    ]
    return {
        "command": "inspect",
        "version": "0.1.0",
        "source": source(),
        "blocks": [{"name": "gpt_neox.layers", "count": blocks, "parameters": 85, "bytes": 170}],
        "parts": [
            {"name": "gpt_neox.embed_in", "parameters": 38_633_472, "bytes": 77_266_944},
            {"name": "gpt_neox.layers", "parameters": 85_054_464, "bytes": 170_108_928},
            {"name": "embed_out", "parameters": 38_633_472, "bytes": 77_266_944},
        ],
        "stacks": [
            {
                "name": "gpt_neox.layers",
                "depth": blocks,
                "width": 768,
                "keys": [["num_hidden_layers"]],
                "language": True,
                "why_not": None,
            },
        ],
        "norms": [*norms, last],
        "writers": [
            {"name": "gpt_neox.embed_in", "kind": "embedding", "tensor": "e.weight"},
            *writers,
        ],
        "readers": [
            {"name": f"gpt_neox.layers.{i}.attention.query_key_value", "tensor": "q", "norm": "n"}
            for i in layers
        ],
        "health": None,
        "surgeries": [
            {
                "name": "convert --to rmsnorm",
                "applies": True,
                "contract": "exact",
                "target": "stock",
                "reason": "25 LayerNorms read a residual stream",
            },
            {
                "name": "convert --to crmsnorm",
                "applies": False,
                "contract": "exact",
                "target": "graft",
                "reason": "a table is tied",
            },
        ],
        "seconds": 0.8,
        "peak_memory_bytes": 600 * 2**20,
    }


def _figures(mean: float) -> dict[str, Any]:
    return {
        "mean": mean,
        "median": mean - 0.1,
        "p999": 11.0,
        "max": 14.0,
        "tokens": 49_245,
        "perplexity": 2.718281828**mean,
    }


def rows_about(source: str) -> dict[str, Any]:
    return {"source": source, "rows": 391, "tokens": 50_048, "sha256": "0" * 64, "notes": []}


def prune_document() -> dict[str, Any]:
    load_report: dict[str, Any] = {"missing": [], "unexpected": [], "mismatched": [], "errors": []}
    return {
        "command": "prune",
        "version": "0.1.0",
        "source": source(),
        "output": "out",
        "target": {
            "form": "stock",
            "architecture": "GPTNeoXForCausalLM",
            "auto_class": "AutoModelForCausalLM",
            "engines": ["transformers"],
            "why": "fewer blocks of the same class",
        },
        "receipts": [
            {
                "surgery": "drop_blocks",
                "contract": "lossy",
                "parameters": {"blocks": [5, 6, 7]},
                "tensors": {"kept": 100, "changed": 0, "added": 0, "dropped": 36},
                "config": {"num_hidden_layers": [12, 9]},
                "notes": [],
            },
            {
                "surgery": "refit",
                "contract": "fitted",
                "parameters": {},
                "tensors": {"kept": 99, "changed": 1, "added": 0, "dropped": 0},
                "config": {},
                "notes": [],
            },
        ],
        "blocks": {
            "stack": "gpt_neox.layers",
            "before": 12,
            "after": 9,
            "dropped": [5, 6, 7],
            "order": [0, 1, 2, 3, 4, 8, 9, 10, 11],
        },
        "method": "angular",
        "scores": [
            {"blocks": [i, i + 1, i + 2], "angular": abs(i - 5) / 10 + 0.05, "fit": 0.5 - i / 100}
            for i in range(10)
        ],
        "calibration": rows_about("sample:prose"),
        "substitution": {
            "name": "refit",
            "objective": "least squares",
            "seam": 4,
            "ridge": 0.001,
            "held_out_error": {"before": 0.31, "after": 0.12},
        },
        "healing": {
            "steps": [
                _step(8, "attention.dense", 0.2, 0.25, accepted=False),
                _step(8, "mlp.dense_4h_to_h", 0.2, 0.15, accepted=True),
            ]
        },
        "losses": {
            "sample:prose": {
                "source": rows_about("sample:prose"),
                "original": _figures(3.0),
                "drop": _figures(3.4),
                "result": _figures(3.1),
            },
            "sample:drama": {
                "source": rows_about("sample:drama"),
                "original": _figures(3.2),
                "drop": _figures(3.3),
                "result": _figures(3.35),
            },
        },
        "samples": [
            {"prompt": "It was\n the", "original": " best of | times", "result": " [worst](x) *of*"}
        ],
        "notes": [],
        "verification": {"verdict": "pass", "contract": "fitted", "load_report": load_report},
        "seconds": 61.0,
        "peak_memory_bytes": 64_000_000,
    }


def _step(
    block: int, writer: str, before: float, after: float, *, accepted: bool
) -> dict[str, Any]:
    return {
        "block": block, "writer": writer, "ridge": 0.001,
        "before": before, "after": after, "accepted": accepted,
    }  # fmt: skip


def heal_document() -> dict[str, Any]:
    document = prune_document()
    for key in ("blocks", "method", "scores", "substitution", "healing", "samples"):
        del document[key]
    document["command"] = "heal"
    document["receipts"] = [{**document["receipts"][1], "surgery": "train", "contract": "trained"}]
    document["verification"]["contract"] = "trained"
    document["training"] = {
        "method": "lora",
        "steps": 200,
        "tokens": 409_600,
        "trainable_parameters": 1_234_567,
        "loss": [[1, 4.2], [200, 3.1]],
        "final": {"ce": 3.0, "kl": 0.2},
    }
    return document


def remove_ln_document() -> dict[str, Any]:
    """A whole result: three blocks, q/k and v apart, the control trained, some tokens unseen."""
    document = heal_document()
    kinds = ("mlp", "qk", "v")
    names = {
        "mlp": "gpt_neox.layers.{}.post_attention_layernorm",
        "qk": "gpt_neox.layers.{}.input_layernorm:qk",
        "v": "gpt_neox.layers.{}.input_layernorm:v",
    }
    paths = [{"path": names[kind].format(i), "kind": kind} for kind in kinds for i in range(3)]
    paths.append({"path": "gpt_neox.final_layer_norm", "kind": "final"})
    removals: list[dict[str, Any]] = [
        {"step": 20 + 10 * i, "action": "remove", "paths": [one["path"]]}
        for i, one in enumerate(paths)
    ]
    merges = [{"step": 150 + i, "action": "merge", "paths": [s]} for i, s in enumerate(SPECIAL)]
    for entry in document["losses"].values():
        control, result = entry.pop("drop"), entry.pop("result")
        entry |= {"control": control, "result": result}
    receipts = [
        {**document["receipts"][0], "surgery": "train"},
        {
            **document["receipts"][0],
            "surgery": "fold_frozen",
            "norms": {"before": {"LayerNorm": 7}, "after": {}},
        },
    ]
    return {
        **document,
        "command": "remove-ln",
        "target": {
            "form": "graft",
            "modeling_file": True,
            "architecture": "GPTNeoXForCausalLM",
            "auto_class": "AutoModelForCausalLM",
            "engines": ["transformers"],
            "why": "no norm is left, so the stock class would compute something else",
        },
        "receipts": receipts,
        "export": "graft",
        "paths": paths,
        "left": {},
        "schedule": {
            "name": "auto",
            "steps": 200,
            "tokens_per_step": 2048,
            "learning_rate": 6e-4,
            "min_learning_rate": 1.2e-5,
        },
        "events": [*removals, *merges],
        "estimate": {
            "steps": 200,
            "tokens": 409_600,
            "row": 128,
            "passes": 1.5,
            "flops": 4.0e14,
            "memory_bytes": 3 * 2**30,
        },
        "control": {
            "run": True,
            "why": "it costs 4.0e14 operations, at most 1e16 is little",
            "steps": 200,
            "tokens": 409_600,
            "loss": [[1, 4.1], [200, 3.0]],
            "final": {"ce": 3.0},
        },
        "training": {
            **document["training"],
            "method": "norm removal",
            "retries": 2,
        },
        "statistics": [
            {
                **one,
                "sigma": 1.5 + i,
                "first": 40.0 + i,
                "end": None,
                "removed_at": 20 + 10 * i,
                "drift": 1.01,
            }
            for i, one in enumerate(paths)
        ],
        "vocabulary": {
            "size": 50_254,
            "beyond": 50,
            "shown": 40_203,
            "missing": 10_051,
            "share": 0.2,
            "examples": [{"id": 900, "text": " |Petertodd"}, {"id": 901, "text": "`x`"}],
        },
        "linearity": {"passed": True, "error": 2.5e-7, "allowed": 1e-5, "contributions": 7},
        "samples": [{"prompt": "It was", "original": " a", "control": " b", "result": " c"}],
        "reproduce": "normsurgery remove-ln EleutherAI/pythia-160m -o OUT --finetune",
    }


SPECIAL = ("end", "first")


def remove_ln_preview_document() -> dict[str, Any]:
    """Without --finetune and --one-shot: what would happen, and nothing written."""
    document = remove_ln_document()
    for key in ("training", "control", "linearity", "samples", "reproduce"):
        del document[key]
    for entry in document["losses"].values():
        entry["one-shot"] = entry.pop("result")
        del entry["control"]
    sensitivity = [
        {**one, "loss": 3.0 + i / 100, "added": i / 100}
        for i, one in enumerate(document["statistics"])
    ]
    return {
        **document, "output": None, "receipts": [], "preview": True,
        "verification": {"verdict": "skipped", "contract": "trained"},
        "sensitivity": [{k: one[k] for k in ("path", "kind", "loss", "added")}
                        for one in sensitivity],
    }  # fmt: skip


def push_document() -> dict[str, Any]:
    """A pull request with two files, one that stayed, and a shard that went."""
    return {
        "command": "push",
        "version": "0.1.0",
        "output": "out",
        "source": source(),
        "surgery": "convert",
        "verdict": "pass",
        "licence": {"id": "apache-2.0", "name": None, "link": None},
        "message": "Upload the result of normsurgery convert",
        "dry_run": False,
        "repository": "user/pythia-rms",
        "revision": "refs/pr/1",
        "commit": "1" * 40,
        "url": "https://huggingface.co/user/pythia-rms/discussions/1",
        "private": False,
        "created": False,
        "unchanged": False,
        "pull_request": "https://huggingface.co/user/pythia-rms/discussions/1",
        "removed": ["model-00001-of-00002.safetensors"],
        "files": [
            {"name": "README.md", "bytes": 4_000},
            {"name": "model.safetensors", "bytes": 324_645_888},
        ],
        "bytes": 324_649_888,
        "left": [{"name": "optimizer.pt", "why": "the state of a training run"}],
        "seconds": 4.23,
    }


def report_document() -> dict[str, Any]:
    return {
        "command": "report",
        "version": "0.1.0",
        "result": "out",
        "output": "out.report.html",
        "bytes": 31_000,
        "source": source(),
        "surgery": "convert",
        "verdict": "pass",
        "files": [{"name": "model.safetensors", "sha256": "ab" * 32, "now": "matches"}],
        "source_files": [
            {"name": "model.safetensors", "sha256": "cd" * 32, "now": "not looked at"}
        ],
        "unchanged": True,
        "pictures": ["losses"],
        "samples": 3,
        "notes": ["Both models went on from the same prompts, greedily, for this page."],
        "seconds": 1.2,
    }


def card_document() -> dict[str, Any]:
    """A card that was made again from a person's template."""
    return {
        "command": "card",
        "version": "0.1.0",
        "output": "out",
        "source": source(),
        "surgery": "convert",
        "template": "mine.md",
        "dry_run": False,
        "changed": True,
        "bytes": 4_321,
        "card": "---\ntags:\n- normsurgery\n---\n\n# pythia-160m with RMSNorm\n",
        "seconds": 0.02,
    }
