"""Checkpoints that are sound but of a kind that cannot be operated on; each has its own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError

_DEQUANTIZE = {
    "gptq": "start from the checkpoint that was quantized: GPTQ's rounding cannot be undone",
    "awq": "start from the checkpoint that was quantized: AWQ's rounding cannot be undone",
    "bitsandbytes": "load it in transformers, call model.dequantize(), save that, and convert it",
    "fp8": "start from the BF16 checkpoint, or write one with the model's own dequantize script",
}
_ALIASES = {"fbgemm_fp8": "fp8", "finegrained_fp8": "fp8", "bitsandbytes_4bit": "bitsandbytes"}
_NAMES = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8"}
_SIDE_CONFIGS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_SUFFIXES = {
    ".qweight": "gptq",
    ".qzeros": "gptq",
    ".SCB": "bitsandbytes",
    ".quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes",
}
_OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".pth": "original PyTorch",
    ".pt": "PyTorch archive",
    ".ckpt": "PyTorch Lightning",
}


def refuse_path(path: Path) -> CheckpointError:
    """The error for a path that exists and is not a directory."""
    if path.suffix == ".gguf":
        return _gguf(path.name)
    return CheckpointError(
        f"{shown(path.name)} is not a directory", "name the directory with config.json in it"
    )


def check_format(title: str, names: Iterable[str]) -> None:
    """Raise CheckpointError for a PEFT adapter, a GGUF, or a quantizer's side file.

    title: what to call the checkpoint. names: what lies at its top.
    """
    listed = sorted(names)
    if "adapter_config.json" in listed:
        raise CheckpointError(
            f"{title} is a PEFT adapter, not a model: it changes a base model",
            "merge it first: peft's merge_and_unload(), then save_pretrained()",
        )
    if not any(n.endswith((".safetensors", ".safetensors.index.json", ".bin")) for n in listed):
        ggufs = [name for name in listed if name.endswith(".gguf")]
        if ggufs:
            raise _gguf(ggufs[0])
    for side, method in _SIDE_CONFIGS.items():
        if side in listed:
            raise _quantized(f"{side} is beside the weights", method)


def check_config(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the configuration says that the weights are quantized."""
    nested = [part for part in config.values() if isinstance(part, dict)]
    for part in [config, *nested]:
        for key in ("quantization_config", "compression_config"):
            if part.get(key):
                found = part[key]
                method = found.get("quant_method") if isinstance(found, dict) else None
                if method is None and isinstance(found, dict):
                    bits = found.get("load_in_4bit") or found.get("load_in_8bit")
                    method = "bitsandbytes" if bits else None
                raise _quantized(f"config.json has a {key}", str(method or "method not named"))


def check_names(names: Iterable[str]) -> None:
    """Raise CheckpointError if tensors are stored as a quantizer stores them."""
    for name in names:
        for suffix, method in _SUFFIXES.items():
            if name.endswith(suffix):
                raise _quantized(f"{shown(name)} is a packed tensor", method)


def no_weights(title: str, names: Iterable[str]) -> CheckpointError:
    """The error for a directory without weights, naming the formats that are there instead."""
    found = {_OTHER_FORMATS[Path(n).suffix]: n for n in names if Path(n).suffix in _OTHER_FORMATS}
    if found:
        kind, name = next(iter(sorted(found.items())))
        return CheckpointError(
            f"{title} holds weights as {kind} only ({shown(name)})",
            "load it in transformers and save_pretrained() it, which writes safetensors",
        )
    return CheckpointError(
        f"{title} holds no weights: no model.safetensors and no index",
        "name a directory that save_pretrained() wrote, or a Hub id",
    )


def _gguf(name: str) -> CheckpointError:
    return CheckpointError(
        f"{shown(name)} is a GGUF, which holds weights in llama.cpp's own layout",
        "start from the safetensors checkpoint that it was made from",
    )


def _quantized(why: str, method: str) -> CheckpointError:
    kind = _ALIASES.get(method, method)
    return CheckpointError(
        f"the weights are quantized ({_NAMES.get(kind, shown(kind))}): {why}",
        _DEQUANTIZE.get(kind, "start from the checkpoint that was quantized"),
    )
