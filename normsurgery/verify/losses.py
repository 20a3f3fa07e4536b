"""Losses of causal language models on held-out text, domain by domain, and greedy samples.

What a fit or a cut cost is told in nats per token: mean, median, 99.9th percentile and maximum,
since a model may keep its mean and lose its worst case.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.tokenizer import needed_tokenizer
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.verify.figures import Spread, chunks
from normsurgery.verify.inputs import Batch
from normsurgery.verify.load import LoadReport, load_model
from normsurgery.verify.run import generate
from normsurgery.verify.sources import ModelSource

PROMPTS = 4
PROMPT_TOKENS = 32
NEW_TOKENS = 48
_ROWS = 8
_BATCH_BYTES = 2**28  # of logits in the model's dtype


def loss_quantiles(losses: Tensor) -> dict[str, float | int]:
    """losses [tokens] in nats → mean, median, p999, max, tokens, perplexity (exp of the mean).

    Nearest-rank quantiles. ValueError where there are none.
    """
    spread = Spread.of(losses)
    if spread is None:
        raise ValueError("no losses")
    perplexity = math.exp(min(spread.mean, 700.0))  # beyond that a double overflows
    return {**spread.to_dict(), "tokens": len(losses), "perplexity": perplexity}


def loss_table(rows: TextRows, losses: Mapping[str, Tensor]) -> dict[str, Any]:
    """One domain's entry: {"source": about, NAME: figures …} for each model's losses [tokens].

    ValueError where the models were not measured on the same tokens.
    """
    if len({len(values) for values in losses.values()}) > 1:
        raise ValueError(f"losses of other tokens: { {n: len(v) for n, v in losses.items()} }")
    return {"source": rows.about, **{n: loss_quantiles(v) for n, v in losses.items()}}


def model_losses(
    model: Any, rows: TextRows, *, device: torch.device, batch_rows: int = _ROWS
) -> Tensor:
    """Cross-entropy [tokens] in nats of every scored token given those before it, row by row.

    `rows.scored` says which tokens: all real ones but a row's first, which nothing predicts; the
    second is predicted from position 0. So the mean is the loss that transformers reports for
    labels = ids, and a row of n tokens has n − 1 losses. Softmax and result are float64.

    UnsupportedModelError for an encoder-decoder, where plain text has no next-token loss.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder: plain text alone has no loss there",
            "leave out what is measured on text",
        )
    found = [
        _batch_losses(model, batch, device)
        for batch in rows.batches(min(batch_rows, _fitting(model, rows)))
    ]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def _fitting(model: Any, rows: TextRows) -> int:
    vocabulary: int = model.config.get_text_config().vocab_size
    row_bytes: int = rows.ids.shape[1] * vocabulary * model.dtype.itemsize
    return max(1, _BATCH_BYTES // max(1, row_bytes))


def _batch_losses(model: Any, batch: TextRows, device: torch.device) -> Tensor:
    inputs = {"input_ids": batch.ids.to(device)}
    if not bool(batch.mask.all()):
        inputs["attention_mask"] = batch.mask.long().to(device)
    options = {"use_cache": False} if "use_cache" in _accepted(model) else {}
    with torch.inference_mode():
        logits = model(**inputs, **options).logits[:, :-1]
    scored = batch.scored[:, 1:]
    labels = batch.ids[:, 1:][scored].unsqueeze(1).to(logits.device)
    found = [
        functional.cross_entropy(some.double(), label.squeeze(1), reduction="none").cpu()
        for some, label in chunks(logits[scored.to(logits.device)], labels)
    ]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def _accepted(model: Any) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def prompts_from(rows: TextRows, *, count: int = PROMPTS, tokens: int = PROMPT_TOKENS) -> TextRows:
    """The starts of rows spread over the text, all of one length, so that nothing is padded.

    At most half a row each, so that the model has room to go on. UsageError where no row has four
    tokens.
    """
    length = min(tokens, int(rows.mask.sum(1).max()) // 2)
    long_enough = [i for i, real in enumerate(rows.mask.sum(1).tolist()) if real >= length]
    if length < 2:
        raise UsageError("the rows are too short to continue their text", "raise --max-length")
    step = max(1, len(long_enough) // count)
    chosen = long_enough[::step][:count]
    return TextRows.of([rows.ids[i, :length].tolist() for i in chosen])


def greedy_samples(
    model: Any,
    tokenizer: Any,
    prompts: TextRows,
    *,
    device: torch.device,
    new_tokens: int = NEW_TOKENS,
) -> list[str]:
    """How the model goes on after each prompt, greedily and with the cache: the new text alone.

    prompts: rows of one length. The text stops before the tokenizer's end token, and where the
    model's positions end.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > prompts.ids.shape[1]:
        new_tokens = min(new_tokens, positions - prompts.ids.shape[1])
    batch = Batch({"input_ids": prompts.ids, "attention_mask": prompts.mask.long()}, prompts.mask)
    made = generate(model, batch, steps=new_tokens, dtype=model.dtype, device=device).tokens
    return [tokenizer.decode(_until(row, tokenizer.eos_token_id)) for row in made.tolist()]


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


@dataclass(frozen=True)
class Measured:
    """One model on text. losses: by domain, each [tokens]. continued: a text for each prompt."""

    losses: dict[str, Tensor]
    continued: list[str] = field(default_factory=list)
    report: LoadReport = field(default_factory=LoadReport)


def measure(
    source: ModelSource,
    domains: Mapping[str, TextRows],
    *,
    dtype: torch.dtype,
    device: torch.device,
    scratch: Path,
    prompts: TextRows | None = None,
    new_tokens: int = NEW_TOKENS,
    memory_limit_bytes: int | None = None,
) -> Measured:
    """Load a saved causal language model once; its losses in every domain and its samples.

    scratch: a directory for weights that do not fit into memory. prompts: None takes no samples.
    """
    with load_model(
        source, dtype=dtype, device=device, scratch=scratch, memory_limit_bytes=memory_limit_bytes
    ) as loaded:
        losses = {
            name: model_losses(loaded.model, rows, device=device) for name, rows in domains.items()
        }
        texts: list[str] = []
        if prompts is not None and loaded.model.can_generate():
            tokenizer = needed_tokenizer(
                source.directory, trust_remote_code=source.trust_remote_code
            )
            texts = greedy_samples(
                loaded.model, tokenizer, prompts, device=device, new_tokens=new_tokens
            )
        return Measured(losses, texts, loaded.report)


def loss_tables(
    domains: Mapping[str, TextRows], measured: Mapping[str, Measured]
) -> dict[str, dict[str, Any]]:
    """The document's `losses`: {DOMAIN: {"source": about, NAME: figures …}}."""
    return {
        domain: loss_table(rows, {name: one.losses[domain] for name, one in measured.items()})
        for domain, rows in domains.items()
    }


def side_by_side(
    tokenizer: Any, prompts: TextRows, measured: Mapping[str, Measured]
) -> list[dict[str, str]]:
    """The document's `samples`: [{"prompt", NAME: how that model goes on …}]."""
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in prompts.ids.tolist()]
    columns: Sequence[str] = [name for name, one in measured.items() if one.continued]
    return [
        {"prompt": text, **{name: measured[name].continued[i] for name in columns}}
        for i, text in enumerate(texts)
    ]
