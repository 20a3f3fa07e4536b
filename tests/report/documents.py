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
            "sources": [*range(6), "zero", *range(9, 12)], "dropped": [6, 7, 8],
        },
        "verification": {"verdict": "pass", "contract": "lossy", "stock": form()},
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
