"""How well a model does on samples that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normsurgery.calibrate.arrays.samples import Samples
from normsurgery.calibrate.batch_statistics import run

_ROWS = 32


@dataclass(frozen=True)
class HeldOut:
    """loss, accuracy: of the logits where there are labels, in nats and as a share.

    error: ‖outputs − the reference's‖ / ‖the reference's‖ where there is a reference.
    """

    loss: float | None = None
    accuracy: float | None = None
    error: float | None = None

    @property
    def figure(self) -> float:
        """What is to be small: the loss, else the error."""
        chosen = self.loss if self.loss is not None else self.error
        return float("nan") if chosen is None else chosen

    def to_dict(self) -> dict[str, float | None]:
        return dict(vars(self))


def outputs_of(model: nn.Module, samples: Samples) -> list[dict[str, Tensor]]:
    """Floating outputs of the top level, batch by batch, on the CPU."""
    return [_floating(run(model, batch)) for batch in samples.batches(_ROWS)]


def measured(
    outputs: Sequence[dict[str, Tensor]],
    samples: Samples,
    reference: Sequence[dict[str, Tensor]] | None,
) -> HeldOut:
    """The figures of a model's outputs on samples; `reference`: another model's on the same."""
    loss, accuracy = _classified(outputs, samples)
    return HeldOut(loss, accuracy, None if reference is None else _apart(outputs, reference))


def _floating(output: Any) -> dict[str, Tensor]:
    return {
        name: value.cpu()
        for name, value in output.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _classified(
    outputs: Sequence[dict[str, Tensor]], samples: Samples
) -> tuple[float | None, float | None]:
    first = outputs[0].get("logits")
    if samples.labels is None or first is None or first.dim() != 2:
        return None, None
    logits = torch.cat([output["logits"] for output in outputs]).double()
    labels = torch.tensor(samples.labels)
    right = (logits.argmax(-1) == labels).double().mean()
    return float(functional.cross_entropy(logits, labels)), float(right)


def _apart(ours: Sequence[dict[str, Tensor]], theirs: Sequence[dict[str, Tensor]]) -> float:
    difference = size = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        for name in other:
            wide = other[name].double()
            difference += float((mine[name].double() - wide).square().sum())
            size += float(wide.square().sum())
    return (difference / size) ** 0.5 if size else float(difference > 0)
