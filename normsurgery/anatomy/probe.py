"""The numeric witness: push on the twin where the anatomy says nothing can be felt.

Adding a constant along the stream to every writer must not change the outputs; scaling γ and β and
inverse-scaling the readers must not either. Who can be felt is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.model import Anatomy, NormSite, Writer
from normsurgery.anatomy.trace import named_outputs
from normsurgery.anatomy.twin import Twin, relative_error
from normsurgery.errors import VerificationError

PROBE_BOUND = 1e-9
Pushed = TypeVar("Pushed", Writer, NormSite)


def run_outputs(
    model: Any, inputs: Mapping[str, Tensor], *, without: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The model's floating outputs in float64, by name, those in `without` left out."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), Float64():
        torch.manual_seed(0)  # some forwards draw: a random mask, a random order
        found = named_outputs(model(**inputs))
    return {
        name: value
        for name, value in found.items()
        if value.is_floating_point() and name not in without
    }


def probe(twin: Twin, anatomy: Anatomy) -> float:
    """Push on all writers and all foldable norm sites; the relative change of the outputs.

    Raises VerificationError naming the writer or norm site that can be felt.
    """
    reference = run_outputs(twin.model, twin.inputs, without=anatomy.exposed)

    def felt() -> float:
        outputs = run_outputs(twin.model, twin.inputs, without=anatomy.exposed)
        return relative_error(outputs, reference)[0]

    streams = anatomy.convertible()
    writers = [w for stream in streams for w in stream.writers if not w.shared]
    reading = {name for stream in streams for name in stream.sites}
    sites = [s for s in anatomy.sites.values() if s.name in reading and not s.unfoldable]
    return max(
        _push(twin, writers, _shift_writer, felt, "a constant written by"),
        _push(twin, sites, _rescale_site, felt, "γ scaled and its readers inverse-scaled at"),
    )


def _push(
    twin: Twin,
    subjects: Sequence[Pushed],
    change: Callable[[dict[str, Tensor], Pushed], None],
    felt: Callable[[], float],
    words: str,
) -> float:
    def error_of(some: Sequence[Pushed]) -> float:
        with _restored(twin.model) as parameters:
            for subject in some:
                change(parameters, subject)
            return felt()

    error = error_of(subjects) if subjects else 0.0
    if error <= PROBE_BOUND:
        return error
    culprit = next((one for one in subjects if error_of([one]) > PROBE_BOUND), subjects[0])
    name = culprit.weight if isinstance(culprit, Writer) else culprit.name
    raise VerificationError(
        f"{words} {name} changes the twin's outputs by {error:.1e} of their std",
        "the trace misread this model: please report its id",
    )


@contextmanager
def _restored(model: Any) -> Iterator[dict[str, Tensor]]:
    """The model's parameters by name, put back to their values afterwards."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before = {name: value.detach().clone() for name, value in parameters.items()}
    try:
        with torch.no_grad():
            yield parameters
    finally:
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(before[name])


def _shift_writer(parameters: dict[str, Tensor], writer: Writer) -> None:
    weight = parameters[writer.weight]
    shape = [1 if axis == writer.stream_dim else size for axis, size in enumerate(weight.shape)]
    generator = torch.Generator().manual_seed(len(writer.weight))
    shift = torch.randn(shape, generator=generator, dtype=weight.dtype) * weight.std()
    # The shift must be constant after LayerScale's gain, where there is one.
    gain = parameters[writer.scale] if writer.scale else torch.ones(1, dtype=weight.dtype)
    view = [1] * weight.dim()
    view[writer.stream_dim] = -1
    weight += shift / gain.view(view)
    if writer.bias:
        parameters[writer.bias] += shift.flatten()[0] / gain


def _rescale_site(parameters: dict[str, Tensor], site: NormSite) -> None:
    norm = site.norm
    generator = torch.Generator().manual_seed(len(site.name))
    factor = torch.rand(norm.width, generator=generator, dtype=torch.float64) + 0.5
    if not norm.weight_name:
        return
    weight = parameters[norm.weight_name]
    weight.copy_((weight + norm.offset) * factor - norm.offset)
    if norm.bias_name:
        parameters[norm.bias_name].mul_(factor)
    for reader in site.readers:
        matrix = parameters[reader.weight]
        view = [1] * matrix.dim()
        view[reader.in_dim] = -1
        matrix.div_(factor.view(view))
