"""Example inputs of any modality, made from a model's configuration and forward signature.

Where a signature leaves the layout open (a spectrogram with time first or last, a picture or a
video), there are several candidates, and the first on which the model runs is the one.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.layouts import MAKERS, Maker, wanted
from normsurgery.anatomy.placeholders import with_placeholders


def example_candidates(
    model: nn.Module, *, batch: int, length: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Seeded random inputs that `model.forward` may take, in the model's own dtype and device.

    Token ids [batch, length] keep clear of the special ids (a pad in the middle shifts positions in
    some families). Images [batch, channels, height, width], videos [batch, frames, channels,
    height, width], spectrograms [batch, mels, frames] or [batch, frames, mels] and waveforms
    [batch, samples] have the sizes that the configuration asks for. length is capped at the
    longest position.
    """
    accepted = inspect.signature(model.forward).parameters
    maker = Maker(model, torch.Generator().manual_seed(seed), batch, length, set(accepted))
    names = [name for name in MAKERS if name in accepted and wanted(name, accepted, maker)]
    parameter = next(model.parameters())
    for choice in itertools.product(*(MAKERS[name](maker) for name in names)):
        inputs = dict(zip(names, choice, strict=True))
        if "input_ids" in inputs:
            inputs = with_placeholders(model, inputs, maker.setting, longest=maker.longest)
        if "attention_mask" in accepted and "input_ids" in inputs:
            rows = inputs["input_ids"].shape[:1] + inputs["input_ids"].shape[-1:]
            inputs["attention_mask"] = torch.ones(rows, dtype=torch.long)
        yield {
            name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }


def example_inputs(
    model: nn.Module, *, batch: int, length: int, seed: int, candidate: int = 0
) -> dict[str, Tensor]:
    """One of the candidates (see `example_candidates`), by number."""
    made = example_candidates(model, batch=batch, length=length, seed=seed)
    return next(itertools.islice(made, candidate, None))


def working_candidate(
    model: nn.Module, run: Callable[[dict[str, Tensor]], Any], *, length: int, seed: int
) -> int:
    """The number of the first candidate on which `run` does not fail; 0 where all do."""
    made = list(example_candidates(model, batch=2, length=length, seed=seed))
    for number, inputs in enumerate(made if len(made) > 1 else []):
        try:
            run(inputs)
        except Exception:  # whatever the model's own code raises at a layout that is not its own
            continue
        return number
    return 0
