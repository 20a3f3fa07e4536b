"""Outliers of the residual stream before and after it is rotated, measured on text.

Two figures for the stream entering each block: the mean over tokens of a token's kurtosis
E[x⁴]/E[x²]² over its channels (3 where they are normal; one channel that outweighs the rest makes
it as large as the width), and the largest channel's root mean square over the median channel's.
Position 0, which many models treat as a sink, stands apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.api.folding.composition import Composition
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.receipt import Receipt
from normsurgery.verify import ModelSource
from normsurgery.verify.inputs import Batch, plan_inputs
from normsurgery.verify.load import HEADROOM, available_memory_bytes, load_model
from normsurgery.verify.reference import chosen_device
from normsurgery.verify.run import placed
from normsurgery.verify.sources import dtype_named, stored_dtype, weight_bytes

TOKENS = 2048
_MAX_LENGTH = 256


@dataclass
class Moments:
    """Sums over tokens of one stream. peaked: of their kurtosis. channels: Σ x², [d]."""

    count: int = 0
    peaked: float = 0.0
    channels: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """rows: [tokens, d]."""
        squares = rows.double().square()
        squares = squares[squares.sum(1) > 0]  # a padded picture may have tokens of zeros
        self.count += len(squares)
        self.peaked += float((squares.square().mean(1) / squares.mean(1).square()).sum())
        self.channels = self.channels + squares.sum(0).cpu()

    def to_dict(self) -> dict[str, float] | None:
        """The two figures, None where there was no token or most channels are zeros."""
        if not self.count:
            return None
        sizes = (self.channels / self.count).sqrt()
        median = float(sizes.median())
        if not median:
            return None
        return {
            "kurtosis": self.peaked / self.count,
            "largest_over_median": float(sizes.max()) / median,
        }


Measured = dict[str, tuple[Moments, Moments]]  # block → (all but position 0, position 0)


def unmeasured(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """The `kurtosis` of a document for which nothing ran; nothing where nothing was rotated."""
    if not _rotated(receipts):
        return {}
    return {"kurtosis": not_measured("the saved model was not verified")}


def measured(
    checkpoint: Checkpoint,
    composition: Composition,
    staged: Path,
    receipts: Sequence[Receipt],
    *,
    allow_pickle: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """The `kurtosis` of a document: source and staged result; nothing where nothing was rotated.

    given: data, device, seed and dtype, as `stream_kurtosis` takes them.
    """
    lists = _rotated(receipts)
    if not lists:
        return {}
    examination = composition.examination
    blocks = [
        f"{block.name}.{number}"
        for block in examination.anatomy.blocks
        if block.name in lists
        for number in range(block.count)
    ]
    model_class = examination.model_class
    source = ModelSource(checkpoint.directory, model_class, allow_pickle=allow_pickle)
    found = stream_kurtosis(source, ModelSource(staged, model_class), blocks, **given)
    return {"kurtosis": found}


def _rotated(receipts: Sequence[Receipt]) -> set[str]:
    """Names of the lists of blocks through which a rotated stream passes."""
    streams = [
        stream
        for receipt in receipts
        if receipt.surgery == "rotate"
        for stream in receipt.parameters["streams"]
    ]
    return {name for stream in streams for name in stream["blocks"]}


def stream_kurtosis(
    source: ModelSource,
    result: ModelSource,
    blocks: Collection[str],
    *,
    data: str | Path | None,
    device: str,
    seed: int,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Both models' streams at the entrance of each block, or why they were not measured.

    blocks: names of the blocks (`model.layers.0`). data: text; None is the bundled sample.
    """
    place = chosen_device(device)
    stored = stored_dtype(source.directory) if dtype is None else dtype_named(dtype)
    reason = _too_large(source.directory, stored, place)
    if reason or not blocks:
        return not_measured(reason or "its stream passes no list of blocks")

    def planned(model: Any) -> Sequence[Batch]:
        text = Path(data) if data else None
        plan = plan_inputs(
            model, source.directory, data=text, tokens=TOKENS, max_length=_MAX_LENGTH, seed=seed
        )
        return plan.batches

    try:
        return _compared(source, result, blocks, stored, place, planned)
    except (RuntimeError, TypeError, ValueError) as error:  # whatever the model's own code raises
        return not_measured(" ".join(str(error).split())[:160])


def _compared(
    source: ModelSource,
    result: ModelSource,
    blocks: Collection[str],
    stored: torch.dtype,
    place: torch.device,
    planned: Callable[[Any], Sequence[Batch]],
) -> dict[str, Any]:
    before, batches = _measure(source, blocks, stored, place, planned)
    after, _ = _measure(result, blocks, stored, place, lambda _: batches)
    rows = [_row(name, before[name], after[name]) for name in before if name in after]
    rows = [row for row in rows if row["before"] and row["after"]]
    if not rows:
        return not_measured("its blocks take no stream of tokens as their first argument")
    tokens = sum(batch.positions for batch in batches)
    return {"measured": True, "why_not": None, "tokens": tokens, "blocks": rows}


def not_measured(reason: str) -> dict[str, Any]:
    """The figures' place where there are none."""
    return {"measured": False, "why_not": reason, "tokens": 0, "blocks": []}


def _too_large(directory: Path, dtype: torch.dtype, device: torch.device) -> str:
    wanted = weight_bytes(directory) * HEADROOM * dtype.itemsize / stored_dtype(directory).itemsize
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else available_memory_bytes()
    if wanted <= free:
        return ""
    return f"the model takes {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def _row(
    name: str, before: tuple[Moments, Moments], after: tuple[Moments, Moments]
) -> dict[str, Any]:
    return {
        "block": name,
        "before": before[0].to_dict(),
        "after": after[0].to_dict(),
        "position_0": {"before": before[1].to_dict(), "after": after[1].to_dict()},
    }


def _measure(
    source: ModelSource,
    blocks: Collection[str],
    dtype: torch.dtype,
    device: torch.device,
    batches_for: Callable[[Any], Sequence[Batch]],
) -> tuple[Measured, Sequence[Batch]]:
    """The moments of one model's streams, and the batches that they were measured on."""
    found: Measured = {}
    with (
        tempfile.TemporaryDirectory(prefix="normsurgery-kurtosis-") as scratch,
        load_model(source, dtype=dtype, device=device, scratch=Path(scratch)) as loaded,
    ):
        batches = batches_for(loaded.model)
        with torch.inference_mode():
            for batch in batches:
                with _watched(loaded.model, blocks, batch, found):
                    loaded.model(**placed(batch.inputs, dtype, device))
    return found, batches


@contextmanager
def _watched(
    model: nn.Module, blocks: Collection[str], batch: Batch, found: Measured
) -> Iterator[None]:
    """While open, what enters the blocks is added up."""
    with ExitStack() as stack:
        for name in blocks:
            module = model.get_submodule(name)
            hook = module.register_forward_pre_hook(_adder(name, batch, found), with_kwargs=True)
            stack.callback(hook.remove)
        yield


def _adder(name: str, batch: Batch, found: Measured) -> Callable[[Any, Any, Any], None]:
    def add(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        stream = next((v for v in (*args, *kwargs.values()) if _is_stream(v)), None)
        if stream is None:
            return
        rest, first = found.setdefault(name, (Moments(), Moments()))
        real, start = _masks(batch, stream)
        rest.add(stream[real & ~start])
        first.add(stream[start])

    return add


def _is_stream(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3


def _masks(batch: Batch, stream: Tensor) -> tuple[Tensor, Tensor]:
    """[batch, time]: the real positions, and each row's position 0 (nowhere where no text is)."""
    for mask in (batch.mask, batch.encoder_mask):
        if mask is not None and mask.shape == stream.shape[:2]:
            first = (mask.cumsum(1) == 1) & mask
            return mask.to(stream.device), first.to(stream.device)
    everything = torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)
    return everything, ~everything
