"""Run a loaded model over the batches and keep what it answers, real positions only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.trace import named_outputs
from normsurgery.verify.inputs import IGNORED, Batch

# Not what the model promises: internals, or (loss) a function of the logits.
_INTERNAL = {
    "loss", "past_key_values", "hidden_states", "attentions", "cross_attentions",
    "encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "decoder_attentions",
}  # fmt: skip
_SPOOL_BYTES = 2**28


@dataclass(frozen=True)
class Rows:
    """One output of one batch: values [rows, width], labels [rows], first [rows] (position 0)."""

    values: Tensor
    labels: Tensor
    first: Tensor


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """TF32 off: it has float32's name and a thousandth of its precision."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    convolution = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution


def forward(model: Any, batch: Batch, dtype: torch.dtype, device: torch.device) -> dict[str, Rows]:
    """Every floating output tensor of the top level, pads left out, by its name.

    A model that gives rows of tensors only (the feature maps of a backbone) is known by these.
    """
    with torch.inference_mode():
        output = model(**placed(batch.inputs, dtype, device))
    outer = {name: value for name, value in output.items() if name not in _INTERNAL}
    tensors = {name: value for name, value in outer.items() if isinstance(value, Tensor)}
    return {
        name: _rows(name, value, batch)
        for name, value in (tensors or named_outputs(outer)).items()
        if value.is_floating_point()
    }


def placed(
    inputs: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The inputs where the model is, the floating ones in its dtype."""
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def first_rows(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first rows of a batch, of every tensor that has a row an input."""
    sizes = [tensor.shape[0] for tensor in inputs.values() if tensor.dim()]
    batch = max(sizes, key=sizes.count)
    return {
        name: tensor[:count] if tensor.dim() and tensor.shape[0] == batch else tensor
        for name, tensor in inputs.items()
    }


def _rows(name: str, value: Tensor, batch: Batch) -> Rows:
    mask = batch.encoder_mask if name.startswith("encoder_") else batch.mask
    first = batch.first
    if mask is None or value.dim() < 2 or value.shape[:2] != mask.shape or first is None:
        flat = value.reshape(-1, value.shape[-1] if value.dim() > 1 else max(1, value.numel()))
        none = torch.zeros(len(flat), dtype=torch.bool)
        return Rows(flat, _classes(value, batch, len(flat)), none)
    labels = batch.labels if batch.labels is not None else torch.full_like(mask.long(), IGNORED)
    real = value[mask.to(value.device)]
    return Rows(real.reshape(len(real), -1), labels[mask], first[mask])


def _classes(value: Tensor, batch: Batch, rows: int) -> Tensor:
    """The class of each row [rows] where a sample has one row and one label, else IGNORED."""
    if batch.labels is None or batch.mask is not None or value.shape[:1] != batch.labels.shape:
        return torch.full((rows,), IGNORED)
    return batch.labels if value.dim() == 2 else torch.full((rows,), IGNORED)


class RowStore:
    """Outputs batch by batch: in memory while they are small, then in files of `scratch`."""

    def __init__(self, scratch: Path, name: str) -> None:
        self._scratch, self._name = scratch, name
        self._kept: list[dict[str, Rows] | Path] = []
        self._bytes = 0

    def add(self, outputs: dict[str, Rows]) -> None:
        host = {n: Rows(r.values.cpu(), r.labels, r.first) for n, r in outputs.items()}
        size = sum(rows.values.nbytes for rows in host.values())
        if self._bytes + size <= _SPOOL_BYTES:
            self._bytes += size
            self._kept.append(host)
            return
        path = self._scratch / f"{self._name}-{len(self._kept)}.pt"
        torch.save({n: (r.values, r.labels, r.first) for n, r in host.items()}, path)
        self._kept.append(path)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Rows]:
        kept = self._kept[index]
        if isinstance(kept, Path):
            return {n: Rows(*parts) for n, parts in torch.load(kept, mmap=True).items()}
        return kept


@dataclass(frozen=True)
class Generation:
    """A greedy continuation with the cache: tokens [rows, steps], logits [rows, steps, vocab]."""

    tokens: Tensor
    logits: Tensor


def generate(
    model: Any, prompts: Batch, *, steps: int, dtype: torch.dtype, device: torch.device
) -> Generation:
    """Greedy text of exactly `steps` tokens, whatever the checkpoint's generation config says."""
    from transformers import GenerationConfig
    from transformers.generation import GenerationMixin

    inputs = dict(prompts.inputs)
    inputs.pop("position_ids", None)  # generation makes its own from the mask
    start = None
    if "decoder_input_ids" in inputs:
        start = int(inputs.pop("decoder_input_ids")[0, 0])
        inputs.pop("decoder_attention_mask", None)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=steps,
        pad_token_id=0,
        decoder_start_token_id=start,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    try:
        # The mixin's own loop: Whisper's wraps it in seeking, fallbacks and forced tokens.
        with torch.inference_mode(), quiet():
            result = GenerationMixin.generate(model, **placed(inputs, dtype, device))
    finally:
        model.generation_config = own
    logits = torch.stack([step.cpu() for step in result.logits], dim=1)
    return Generation(result.sequences[:, -logits.shape[1] :].cpu(), logits)


class CastWatch(TorchFunctionMode):
    """Notes the functions that turn float64 into float32: model code that hard-casts."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype is torch.float32:
            leaves = tree_leaves((args, kwargs))
            if any(isinstance(x, Tensor) and x.dtype is torch.float64 for x in leaves):
                self.functions.add(getattr(func, "__name__", str(func)))
        return result
