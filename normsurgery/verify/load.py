"""Load a model for verification, with a report of what loaded and what did not.

A model that does not fit into memory is loaded through accelerate's offload: the blocks that do
not fit stay in their files and come in one at a time. Models are closed before the next opens.
"""

from __future__ import annotations

import contextlib
import gc
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from normsurgery.anatomy.runtime import quiet
from normsurgery.checkup.machine import memory
from normsurgery.verify.sources import ModelSource, class_of, stored_dtype, weight_bytes

# Activations, the KV cache and the allocator's slack, beside the weights.
HEADROOM = 1.25
_COLLECT_BYTES = 2**26  # collecting takes a fifth of a second, however small the model


@dataclass(frozen=True)
class LoadReport:
    """What `from_pretrained(..., output_loading_info=True)` said; all empty when clean."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched or self.errors)

    def beyond(self, other: LoadReport) -> LoadReport:
        """The entries that `other` does not have: what a candidate has on top of its reference."""
        return LoadReport(
            tuple(k for k in self.missing if k not in other.missing),
            tuple(k for k in self.unexpected if k not in other.unexpected),
            tuple(k for k in self.mismatched if k not in other.mismatched),
            tuple(k for k in self.errors if k not in other.errors),
        )

    def to_dict(self) -> dict[str, list[str]]:
        return {
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": list(self.mismatched),
            "errors": list(self.errors),
        }

    def sentence(self) -> str:
        """Such as `missing: a, b; unexpected: c`, at most three keys of each."""
        parts = []
        for kind, keys in self.to_dict().items():
            if keys:
                more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
                parts.append(f"{kind}: {', '.join(keys[:3])}{more}")
        return "; ".join(parts)


@dataclass
class Loaded:
    model: Any
    report: LoadReport
    offloaded: bool


@contextlib.contextmanager
def load_model(
    source: ModelSource,
    *,
    dtype: torch.dtype,
    device: torch.device,
    scratch: Path,
    memory_limit_bytes: int | None = None,
) -> Iterator[Loaded]:
    """The model in eval mode, in `dtype` on `device`; its memory is given back on leaving.

    scratch: a directory for weights that must be converted before they can stay on disk.
    memory_limit_bytes: what may be used; None measures what is free.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
        "experts_implementation": "eager",  # the fast kernels know neither float64 nor odd widths
    }
    if not source.allow_pickle:
        options["use_safetensors"] = True
    limits = _limits(source.directory, dtype, device, memory_limit_bytes)
    if limits is not None:
        options |= {"device_map": "auto", "max_memory": limits, "offload_folder": str(scratch)}
    with quiet():
        model, info = class_of(source).from_pretrained(str(source.directory), **options)
    model.eval()
    report = _report(info)
    if limits is None:
        _fill(model, report.missing)
        model.to(device)
    loaded = Loaded(model, report, offloaded=limits is not None)
    try:
        yield loaded
    finally:
        del model, loaded.model
        if weight_bytes(source.directory) > _COLLECT_BYTES:
            gc.collect()  # modules and accelerate's hooks refer to each other
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _report(info: dict[str, Any]) -> LoadReport:
    return LoadReport(
        missing=tuple(sorted(info["missing_keys"])),
        unexpected=tuple(sorted(info["unexpected_keys"])),
        mismatched=tuple(sorted(str(entry[0]) for entry in info["mismatched_keys"])),
        errors=tuple(str(message) for message in info["error_msgs"]),
    )


def _fill(model: torch.nn.Module, missing: Iterable[str]) -> None:
    """Values that depend on the name only, for keys that no file has.

    transformers draws them at random; two loads would then differ by more than the checkpoints do.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in missing:
        if name in parameters:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            values = torch.randn(parameters[name].shape, generator=generator) * 0.02
            with torch.no_grad():
                parameters[name].copy_(values)


def _limits(
    directory: Path, dtype: torch.dtype, device: torch.device, memory_limit_bytes: int | None
) -> dict[Any, int] | None:
    """accelerate's max_memory where the model does not fit on the device, else None."""
    widening = dtype.itemsize / stored_dtype(directory).itemsize
    needed = weight_bytes(directory) * widening * HEADROOM
    host = available_memory_bytes() if memory_limit_bytes is None else memory_limit_bytes
    if device.type != "cuda":
        return {"cpu": int(host / HEADROOM)} if needed > host else None
    free = torch.cuda.mem_get_info(device)[0] if memory_limit_bytes is None else memory_limit_bytes
    if needed <= free:
        return None
    return {device.index or 0: int(free / HEADROOM), "cpu": int(host / HEADROOM)}


def available_memory_bytes() -> int:
    """Free host memory, as the machine and the control group see it; else half of all memory."""
    free = memory()["free"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if free is None else free
