"""The batches that two models are compared on, and the prompts that they continue.

Causal models get left padding (what generation uses) with position ids that skip the pads; all
others right padding, since learned positions may ignore the mask. Pads are never compared.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from normsurgery.anatomy.inputs import example_inputs
from normsurgery.calibrate.arrays.files import FORMATS, is_array_source
from normsurgery.calibrate.arrays.read import read_arrays
from normsurgery.calibrate.text.tokenizer import LOADING_ERRORS, load_tokenizer
from normsurgery.errors import UsageError
from normsurgery.verify.layout import Host, padded
from normsurgery.verify.sources import tasks_of
from normsurgery.verify.text import TokenStream, read_text, tokenize

IGNORED = -100  # torch.nn.functional.cross_entropy's default ignore_index
_ROWS = 8
_SAMPLES = 16  # images or sounds, where there is no text to count tokens of
_GIVEN_SAMPLES = 128  # of a user's own images or sounds, at most
_BATCH_BYTES = 2**27  # of logits in float64; there are a few copies of them
Padding = Literal["natural", "right", "none"]
_PROMPTS = 4
_PROMPT_TOKENS = 16
_MASKED = 0.15  # BERT's share, arXiv 1810.04805


@dataclass(frozen=True)
class Batch:
    """inputs: on the CPU. mask [batch, time]: the real positions of what `logits` belong to.

    labels [batch, time]: the token that the logits there should give, or IGNORED; without a mask
    [batch]: the class that a sample's logits should give.
    encoder_mask [batch, time]: the same for the encoder's outputs.
    """

    inputs: dict[str, Tensor]
    mask: Tensor | None = None
    labels: Tensor | None = None
    encoder_mask: Tensor | None = None

    @property
    def positions(self) -> int:
        """Real tokens, or samples where there is no text."""
        if self.mask is not None:
            return int(self.mask.sum())
        return len(next(iter(self.inputs.values())))

    @property
    def first(self) -> Tensor | None:
        """[batch, time]: True at each row's position 0."""
        return None if self.mask is None else (self.mask.cumsum(1) == 1) & self.mask


@dataclass(frozen=True)
class Plan:
    """Everything both models are run on. kind: "text", "samples" (of files) or "random"."""

    batches: tuple[Batch, ...]
    prompts: Batch | None
    kind: str
    notes: tuple[str, ...] = ()


@dataclass
class _Request:
    model: Any
    tokens: int
    max_length: int
    seed: int
    padding: Padding
    layout: int
    stream: TokenStream | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> set[str]:
        return set(inspect.signature(self.model.forward).parameters)

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def causal(self) -> bool:
        encoder_decoder = getattr(self.model.config, "is_encoder_decoder", False)
        return "CAUSAL_LM" in tasks_of(type(self.model)) and not encoder_decoder


def plan_inputs(
    model: Any,
    directory: Path,
    *,
    data: Path | None,
    tokens: int,
    max_length: int,
    seed: int,
    padding: Padding = "natural",
    layout: int = 0,
    trust_remote_code: bool = False,
) -> Plan:
    """Batches of about `tokens` tokens for a loaded model.

    Where its input is no text, 16 random images or sounds; or those of `data`, at most 128, with
    the labels that they have. UsageError where `data` is of the wrong kind or cannot be read.
    padding: natural is left for causal models and right for others; some code overflows in float64
    where a whole row of attention is masked, so the caller may ask for right, or for no pads.
    layout: which candidate of `example_candidates` the model takes (see `chosen_layout`).
    """
    request = _Request(model, tokens, max_length, seed, padding, layout)
    if data is not None and is_array_source(data):
        return _given(request, directory, data, trust_remote_code)
    samples = _example(request, batch=2, length=max_length)
    ids_name = next((n for n in ("input_ids", "decoder_input_ids") if n in samples), None)
    if ids_name is None or not _is_free_text(request, samples, samples[ids_name]):
        if data is not None:
            taken = getattr(model, "main_input_name", "no text")
            raise UsageError(f"the model takes {taken}, {data.name} is none", f"give {FORMATS}")
        batches = tuple(_sampled(request, seed + i) for i in range(_SAMPLES // _ROWS))
        return Plan(batches, None, "random")
    length = samples[ids_name].shape[1]
    request.stream = _text_stream(request, directory, data, trust_remote_code)
    rows = _rows(request, length)
    size = _batch_rows(request, length)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    batches = tuple(_batch(request, group, seed + i) for i, group in enumerate(groups))
    prompts = None
    if model.can_generate():
        prompts = _batch(request, _prompt_rows(request, rows, length), seed)
    kind = "random" if request.stream is None else "text"
    return Plan(batches, prompts, kind, tuple(request.notes))


def _given(request: _Request, directory: Path, data: Path, trust_remote_code: bool) -> Plan:
    """The user's own samples, with whatever else the model's forward asks for."""
    samples = read_arrays(
        data, request.model, directory,
        limit=_GIVEN_SAMPLES, seed=request.seed, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    batches = tuple(
        Batch(_made_up(request, len(batch)) | batch.inputs, labels=batch.labels)
        for batch in samples.batches(_ROWS)
    )
    return Plan(batches, None, "samples", samples.notes)


def _made_up(request: _Request, rows: int) -> dict[str, Tensor]:
    """A forward's other arguments; none where the configuration says too little of them."""
    try:
        return _sampled(request, request.seed, rows).inputs
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):
        return {}


def _is_free_text(request: _Request, samples: dict[str, Tensor], ids: Tensor) -> bool:
    """Whether any text may stand in the rows: one a sample, no places for a picture's features.

    samples: two of them.
    """
    if ids.dim() != 2 or len(ids) != 2:
        return False  # several codebooks
    place = getattr(request.model.config, "image_token_id", None)
    return "pixel_values" not in samples or place is None or not bool((ids == place).any())


def _example(
    request: _Request, *, batch: int, length: int, seed: int | None = None
) -> dict[str, Tensor]:
    host: Any = Host(request.model)
    return example_inputs(
        host, batch=batch, length=length, candidate=request.layout,
        seed=request.seed if seed is None else seed,
    )  # fmt: skip


def _text_stream(
    request: _Request, directory: Path, data: Path | None, trust_remote_code: bool
) -> TokenStream | None:
    text = read_text(data, characters=16 * request.tokens)
    try:
        tokenizer = load_tokenizer(directory, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        request.notes.append(f"random token ids: the tokenizer cannot be loaded ({error})")
        return None
    if tokenizer is None:
        request.notes.append("random token ids: there is no tokenizer")
        return None
    stream = tokenize(tokenizer, text, vocabulary=request.config.vocab_size)
    if isinstance(stream, str):
        request.notes.append(f"random token ids: {stream}")
        return None
    return stream


def _lengths(request: _Request, length: int) -> list[int]:
    """Full rows and shorter ones, so that every batch has padding; about `tokens` in all."""
    shorter = 0 if request.padding == "none" else length // 8
    lengths: list[int] = []
    while sum(lengths) < request.tokens or len(lengths) < 2:
        lengths.append(max(2, length - (len(lengths) % 4) * shorter))
    return lengths


def _rows(request: _Request, length: int) -> list[list[int]]:
    lengths = _lengths(request, length)
    if request.stream is not None:
        rows = list(request.stream.rows(lengths))
        equal = [row for row in rows if len(row) == len(rows[0])]
        return equal if request.padding == "none" else rows
    made = _example(request, batch=len(lengths), length=length)
    ids = made.get("input_ids", made.get("decoder_input_ids"))
    assert ids is not None  # the caller found one of the two
    return [row[:size] for row, size in zip(ids.tolist(), lengths, strict=True)]


def _prompt_rows(request: _Request, rows: list[list[int]], length: int) -> list[list[int]]:
    """Prompts of different lengths where pads may stand, leaving room for what is generated."""
    longest = max(2, min(_PROMPT_TOKENS, length // 2))
    shorter = 2 if request.padding == "natural" else 0
    return [row[: max(2, longest - shorter * i)] for i, row in enumerate(rows[:_PROMPTS])]


def _batch_rows(request: _Request, length: int) -> int:
    row_bytes = length * getattr(request.config, "vocab_size", 1) * torch.float64.itemsize
    return int(max(2, min(_ROWS, _BATCH_BYTES // row_bytes)))


def _sampled(request: _Request, seed: int, batch: int = _ROWS) -> Batch:
    made = _example(request, batch=batch, length=request.max_length, seed=seed)
    return Batch(made)


def _batch(request: _Request, rows: list[list[int]], seed: int) -> Batch:
    """One batch of these rows of ids, with whatever else the model's forward asks for."""
    others = {
        name: tensor
        for name, tensor in _sampled(request, seed, len(rows)).inputs.items()
        if name not in ("input_ids", "attention_mask", "decoder_input_ids")
    }
    ids, mask = padded(rows, _pad_id(request), left=request.causal and request.padding == "natural")
    if getattr(request.model.config, "is_encoder_decoder", False):
        return _encoder_decoder(request, ids, mask, others)
    labels = None
    if request.causal:
        labels = torch.full_like(ids, IGNORED)
        labels[:, :-1] = torch.where(mask[:, 1:] & mask[:, :-1], ids[:, 1:], IGNORED)
    elif "MASKED_LM" in tasks_of(type(request.model)):
        ids, labels = _masked(request, ids, mask, seed)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if request.causal:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
    inputs = {name: tensor for name, tensor in inputs.items() if name in request.accepted}
    return Batch(inputs | others, mask, labels)


def _encoder_decoder(
    request: _Request, ids: Tensor, mask: Tensor, others: dict[str, Tensor]
) -> Batch:
    """The decoder is taught the row itself: shifted right by one, from the start token."""
    config = request.model.config
    start = next(
        value
        for value in (
            getattr(config, "decoder_start_token_id", None),
            getattr(config, "bos_token_id", None),
            _pad_id(request),
        )
        if value is not None
    )
    shifted = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
    labels = torch.where(mask, ids, IGNORED)
    inputs = {"decoder_input_ids": shifted, "decoder_attention_mask": mask.long()}
    encoder_mask = None
    if "input_ids" in request.accepted:
        inputs |= {"input_ids": ids, "attention_mask": mask.long()}
        encoder_mask = mask
    inputs = {name: tensor for name, tensor in inputs.items() if name in request.accepted}
    return Batch(inputs | others, mask, labels, encoder_mask)


def _masked(request: _Request, ids: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Ids with a share hidden behind the mask token, and labels there; or labels everywhere."""
    hidden = request.stream.mask_id if request.stream is not None else None
    if hidden is None:
        return ids, torch.where(mask, ids, IGNORED)
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(ids.shape, generator=generator) < _MASKED) & mask
    return torch.where(chosen, hidden, ids), torch.where(chosen, ids, IGNORED)


def _pad_id(request: _Request) -> int:
    stated = getattr(request.config, "pad_token_id", None)
    own = request.stream.pad_id if request.stream is not None else None
    pad: int | None = stated if stated is not None else own
    size = request.config.vocab_size
    return pad if pad is not None and 0 <= pad < size else 0
