"""What the original and the result make of the same inputs: text, or the classes of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsurgery.api.reporting.request import SampleRequest
from normsurgery.calibrate.arrays.read import read_arrays
from normsurgery.calibrate.held_out import outputs_of
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.calibrate.text.tokenizer import (
    check_ids,
    encode,
    needed_tokenizer,
    specials_of,
)
from normsurgery.errors import UsageError
from normsurgery.report.numbers import percent
from normsurgery.report.page.page import Samples
from normsurgery.report.progress import Progress
from normsurgery.verify import ModelSource
from normsurgery.verify.load import load_model
from normsurgery.verify.losses import greedy_samples, prompts_from
from normsurgery.verify.reference import chosen_device
from normsurgery.verify.sources import class_of, stored_dtype

ROW_TOKENS = 64  # of the text that prompts are cut from; a prompt is half of it at most
TOP = 3  # classes that are shown of each picture
DEFAULT = 3  # samples where data is given and no number


@dataclass
class _Run:
    """Both models in turn, one in memory at a time."""

    request: SampleRequest
    scratch: Path
    dtype: torch.dtype
    device: torch.device

    @contextmanager
    def loaded(self, source: ModelSource) -> Iterator[Any]:
        with load_model(
            source, dtype=self.dtype, device=self.device, scratch=self.scratch
        ) as opened:
            yield opened.model


def take_samples(
    original: ModelSource, result: ModelSource, request: SampleRequest, progress: Progress
) -> Samples:
    """Both models on the same prompts, or on the same pictures; or the reason why there is nothing.

    Greedy, in the original's storage dtype. Raises UsageError for a prompt that the models cannot
    read, and what reading the data raises.
    """
    sources = {"original": original, "result": result}
    reason = None if request.pictures else _mute(class_of(original))
    if reason is not None:
        return Samples(said=reason)
    with (
        tempfile.TemporaryDirectory(prefix="normsurgery-report-") as scratch,
        progress.task("sample", len(sources), "steps") as advance,
    ):
        run = _Run(
            request, Path(scratch), stored_dtype(original.directory),
            chosen_device(request.device),
        )  # fmt: skip
        if request.pictures:
            return _pictures(run, sources, advance)
        return _texts(run, sources, advance)


def _mute(model_class: Any) -> str | None:
    """Why this class goes on from no text; None where it does."""
    name = model_class.__name__
    if not model_class.can_generate():
        return (
            f"{name} writes no text, so there is nothing to sample. --data with pictures shows the "
            "classes that an image classifier gives them."
        )
    if not hasattr(model_class, "prepare_inputs_for_generation"):
        return f"{name} cannot be asked to go on from a text."
    return None


def _texts(run: _Run, sources: Mapping[str, ModelSource], advance: Any) -> Samples:
    original = sources["original"]
    tokenizer = needed_tokenizer(original.directory, trust_remote_code=original.trust_remote_code)
    prompts = _prompts(run.request, original, tokenizer)
    continued: dict[str, list[str]] = {}
    for name, source in sources.items():
        with run.loaded(source) as model:
            if getattr(model.config, "is_encoder_decoder", False):
                said = "is an encoder-decoder: it goes on from no text that stands alone."
                return Samples(said=f"{type(model).__name__} {said}")
            _check_lengths(model, prompts)
            continued[name] = [_continued(run, model, tokenizer, ids) for ids in prompts]
        advance(1)
    rows = [
        {
            "prompt": tokenizer.decode(ids, skip_special_tokens=True),
            **{name: texts[i] for name, texts in continued.items()},
        }
        for i, ids in enumerate(prompts)
    ]
    return Samples(rows, "Both models went on from the same prompts, greedily, for this page.")


def _prompts(request: SampleRequest, source: ModelSource, tokenizer: Any) -> list[list[int]]:
    """Those that were given, and so many starts of rows of the text."""
    texts = [encode(tokenizer, text) for text in request.prompts]
    if not all(texts):
        raise UsageError("a prompt has no token", "give it a word")
    start = specials_of(tokenizer).prefix if texts else ()
    found = [[*start, *ids] for ids in texts]
    count = request.count if request.count is not None else (0 if found else DEFAULT)
    if count:
        rows = load_rows(
            source.directory, data=request.data, tokens=ROW_TOKENS * count,
            max_length=ROW_TOKENS, seed=request.seed,
            trust_remote_code=source.trust_remote_code,
        )  # fmt: skip
        found += prompts_from(rows, count=count).ids.tolist()
    return found


def _check_lengths(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    longest = max(map(len, prompts))
    for ids in prompts:
        check_ids(ids, config.vocab_size)
    if isinstance(limit, int) and longest >= limit:
        raise UsageError(
            f"a prompt has {longest} tokens, the model reads {limit}", "give a shorter one"
        )


def _continued(run: _Run, model: Any, tokenizer: Any, ids: list[int]) -> str:
    (text,) = greedy_samples(
        model, tokenizer, TextRows.of([ids]), device=run.device,
        new_tokens=run.request.new_tokens,
    )  # fmt: skip
    return text


def _pictures(run: _Run, sources: Mapping[str, ModelSource], advance: Any) -> Samples:
    """The first classes of each picture, by both models."""
    original, data = sources["original"], Path(str(run.request.data))
    tops: list[dict[str, str]] = []
    for name, source in sources.items():
        with run.loaded(source) as model:
            samples = read_arrays(
                data, model, original.directory,
                limit=run.request.count or DEFAULT, seed=run.request.seed,
                trust_remote_code=original.trust_remote_code,
            )  # fmt: skip
            logits = [one["logits"] for one in outputs_of(model, samples) if "logits" in one]
            if not logits or any(one.dim() != 2 for one in logits):
                said = f"{type(model).__name__} gives no class to a whole input."
                return Samples(said=f"{said} Nothing can be shown side by side.")
            found = [_top(row, model.config) for one in logits for row in one]
        tops = tops or [{"sample": f"{i}"} for i in range(1, len(found) + 1)]
        for row, said in zip(tops, found, strict=True):
            row[name] = said
        advance(1)
    return Samples(said=f"The {TOP} likeliest classes of samples of {data.name}.", tops=tops)


def _top(logits: Tensor, config: Any) -> str:
    """`cat 91.20 %, dog 5.10 %`."""
    shares, numbers = logits.double().softmax(-1).topk(min(TOP, len(logits)))
    names = getattr(config, "id2label", None) or {}
    return ", ".join(
        f"{names.get(number, number)} {percent(share)}"
        for share, number in zip(shares.tolist(), numbers.tolist(), strict=True)
    )
