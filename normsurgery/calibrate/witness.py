"""Whether a model can be run block by block: tried on its twin, in float64.

Three things are asked of it: that it predicts text from left to right, that its blocks hand each
other nothing but the stream, and that what stands right of a token does not reach it (so that the
pads of a right-padded batch need no mask).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.runtime import quiet, single_thread
from normsurgery.anatomy.twin import Twin
from normsurgery.calibrate.passing import (
    Form,
    Pool,
    forms_of,
    note_calls,
    tail_logits,
    text_inputs,
)
from normsurgery.errors import SurgeryError, UnsupportedModelError

_ROWS, _TIME, _PADS = 2, 9, 3
_AGREEMENT = 1e-9  # of float64 forwards that compute the same function
_OF_MODEL_CODE = (TypeError, ValueError, AttributeError, KeyError, RuntimeError, IndexError)
_HINT = "the methods that need no text apply: normsurgery prune --drop, --method last"


@single_thread()
def forms_on_twin(twin: Twin, blocks: Sequence[str]) -> list[Form]:
    """How each block returns the stream, once the twin has shown that it runs block by block.

    Raises UnsupportedModelError with the reason where it does not.
    """
    model = twin.model
    _check_reads_text(model)
    modules = [model.get_submodule(name) for name in blocks]
    ids = twin_ids(model)
    with quiet(), torch.no_grad(), Float64():
        plain = [_logits(model, text_inputs(batch)) for batch in (ids, ids.flip(1))]
        _check_direction(model, ids, plain[0])
        forms = forms_of(model, modules, text_inputs(ids))
        streamed = _streamed(model, modules, forms, [ids, ids.flip(1)])
    if not all(map(_same, streamed, plain)):
        raise _entangled(model)
    return forms


def _entangled(model: Any, reason: str = "they give other predictions than") -> SurgeryError:
    return UnsupportedModelError(
        f"the blocks of {type(model).__name__} hand on more than the stream: run one by one "
        f"{reason} its own forward",
        _HINT,
    )


def _check_reads_text(model: Any) -> None:
    if model.main_input_name != "input_ids":
        raise UnsupportedModelError(
            f"{type(model).__name__} does not predict text from text: its input is "
            f"{model.main_input_name}",
            _HINT,
        )


def twin_ids(model: Any) -> Tensor:
    """Made-up ids [rows, time] for a twin, clear of its special ones."""
    generator = torch.Generator().manual_seed(0)
    size = int(model.get_input_embeddings().weight.shape[0])
    # clear of the lowest ids, among which the special ones are
    low = min(8, size // 2)
    return torch.randint(low, size, (_ROWS, _TIME), generator=generator)


def _logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    """[rows, time, vocabulary]. Raises UnsupportedModelError where it is no language model."""
    try:
        logits = model(**inputs).logits
    except _OF_MODEL_CODE as error:
        reason = " ".join(str(error).split())[:160]
        raise UnsupportedModelError(
            f"{type(model).__name__} does not predict text from text alone: {reason}", _HINT
        ) from error
    if not isinstance(logits, Tensor) or logits.shape[:2] != inputs["input_ids"].shape:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not give a prediction for each token", _HINT
        )
    return logits


def _check_direction(model: Any, ids: Tensor, plain: Tensor) -> None:
    """Neither other tokens to the right nor a mask over them may change a prediction."""
    kept = _TIME - _PADS
    other = ids.clone()
    other[:, kept:] = ids[:, kept:].flip(0)
    masked = text_inputs(ids)
    masked["attention_mask"][:, kept:] = 0
    for inputs in (text_inputs(other), masked):
        if not _same(_logits(model, inputs)[:, :kept], plain[:, :kept]):
            raise UnsupportedModelError(
                f"{type(model).__name__} does not read from left to right: later tokens, or pads, "
                "change earlier predictions",
                _HINT,
            )


def _streamed(
    model: Any, modules: Sequence[nn.Module], forms: Sequence[Form], batches: Sequence[Tensor]
) -> list[Tensor]:
    """Logits of the blocks run one by one, each over all batches, with the arguments noted."""
    pool = Pool()
    noted = [note_calls(model, modules, forms, ids, pool) for ids in batches]
    streams = [stream for _, stream in noted]
    if streams[0].dim() != 3 or streams[0].shape[:2] != batches[0].shape:
        raise UnsupportedModelError(
            f"the stream of {type(model).__name__} has the shape {list(streams[0].shape)}, "
            "not [rows, time, d]",
            _HINT,
        )
    try:
        for place, (module, form) in enumerate(zip(modules, forms, strict=True)):
            for batch, (calls, _) in enumerate(noted):
                streams[batch] = form.stream(calls[place](module, streams[batch]))
    except _OF_MODEL_CODE as error:
        raise _entangled(model, f"they fail ({type(error).__name__}), unlike in") from error
    return [
        tail_logits(model, modules, forms, ids, x) for ids, x in zip(batches, streams, strict=True)
    ]


def _same(left: Any, right: Tensor) -> bool:
    if not isinstance(left, Tensor) or left.shape != right.shape:
        raise SurgeryError("internal error: two forwards of the twin differ in shape")
    scale = float(right.abs().max()) or 1.0
    return float((left - right).abs().max()) <= _AGREEMENT * scale
