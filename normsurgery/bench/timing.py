"""Time what models do, in turns: A B, B A, A B …"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.runtime import quiet
from normsurgery.report.progress import Advance

Clock = Callable[[], float]


@dataclass(frozen=True)
class Run:
    """One run's times in seconds.

    forward: of a whole forward pass, or to the first token of a text. steps: of each later token.
    """

    forward: float
    steps: tuple[float, ...] = ()


Runner = Callable[[], Run]


def interleaved(
    runners: Mapping[str, Runner], *, repeats: int, warmup: int, advance: Advance
) -> dict[str, list[Run]]:
    """`repeats` rounds of one run each, after `warmup` rounds that are not kept.

    Every other round goes backwards (A B, B A, …), so that no model always comes second.
    """
    found: dict[str, list[Run]] = {name: [] for name in runners}
    for number in range(warmup + repeats):
        for name in list(runners) if number % 2 == 0 else list(runners)[::-1]:
            run = runners[name]()
            if number >= warmup:
                found[name].append(run)
            advance(1)
    return found


def forward_runner(
    model: Any, inputs: Mapping[str, Tensor], *, device: torch.device, clock: Clock
) -> Runner:
    """One forward pass, until the device is done with it."""

    def run() -> Run:
        finish(device)
        started = clock()
        with torch.inference_mode():
            model(**inputs)
        finish(device)
        return Run(clock() - started)

    return run


def text_runner(
    model: Any, inputs: Mapping[str, Tensor], *, new_tokens: int, device: torch.device, clock: Clock
) -> Runner:
    """Greedy text of exactly `new_tokens` tokens a row with the model's own cache.

    Timed through the loop that users run, `generate`, so that every kind of cache is served as
    its model serves it; each token is timed when it has reached the host.
    """

    def run() -> Run:
        stamps = _Stamps(clock)
        finish(device)
        started = clock()
        generate(model, inputs, new_tokens=new_tokens, streamer=stamps)
        times = stamps.times
        steps = tuple(after - before for before, after in itertools.pairwise(times))
        return Run(times[0] - started, steps)

    return run


def generate(
    model: Any, inputs: Mapping[str, Tensor], *, new_tokens: int, streamer: Any = None
) -> Tensor:
    """Exactly `new_tokens` greedy tokens a row, whatever the checkpoint's generation config says.

    → ids [batch, …], the prompt's first where the model is no encoder-decoder.
    """
    from transformers import GenerationConfig
    from transformers.generation import GenerationMixin

    start = None
    given = {name: value for name, value in inputs.items() if name != "position_ids"}
    if "decoder_input_ids" in given:
        start = int(given.pop("decoder_input_ids")[0, 0])
        given.pop("decoder_attention_mask", None)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=new_tokens, pad_token_id=0,
        decoder_start_token_id=start, use_cache=True,
    )  # fmt: skip
    try:
        # The mixin's own loop: Whisper's wraps it in seeking, fallbacks and forced tokens.
        with torch.inference_mode(), quiet():
            made: Tensor = GenerationMixin.generate(model, streamer=streamer, **given)
            return made
    finally:
        model.generation_config = own


class _Stamps:
    """A streamer of transformers that keeps when each token came; the prompt comes first."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._prompt_seen = clock, False
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        if self._prompt_seen:
            self.times.append(self._clock())
        self._prompt_seen = True

    def end(self) -> None:
        return None


def finish(device: torch.device) -> None:
    """Wait for what the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
