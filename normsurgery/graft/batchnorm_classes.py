"""Which Auto classes a graft of a model with folded BatchNorms may offer.

A class is offered when its own twin folds the same norms into the same maps: a head that reads a
map's output before its norm would compute something else.
"""

from __future__ import annotations

from typing import Any

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.twin import build_twin
from normsurgery.errors import SurgeryError
from normsurgery.graft.classes import auto_classes


@single_thread()
def batch_norm_classes(
    examination: Examination, found: BatchNorms
) -> tuple[dict[str, str], dict[str, str]]:
    """Auto classes that the graft may offer, and for the others the reason why not."""
    wanted = auto_classes(examination.config, examination.model_class)
    own = examination.model_class.__name__
    verdicts: dict[str, str | None] = {own: None}
    for name in wanted.values():
        if name not in verdicts:
            verdicts[name] = _why_not(examination, found, name)
    offered = {auto: name for auto, name in wanted.items() if verdicts[name] is None}
    refused = {name: reason for name, reason in verdicts.items() if reason}
    return offered, refused


def _why_not(examination: Examination, found: BatchNorms, name: str) -> str | None:
    import transformers

    model_class = getattr(transformers, name, None)
    if model_class is None:
        return "transformers cannot build it here"
    try:
        theirs = read_batch_norms(build_twin(model_class, examination.config))
    except SurgeryError as error:
        return error.message
    prefix = f"{getattr(examination.model_class, 'base_model_prefix', '')}."
    ours, other = _outline(found, prefix), _outline(theirs, prefix)
    odd = next((site for site, what in other.items() if ours.get(site) != what), None)
    if odd is not None:
        own = examination.model_class.__name__
        return f"{odd} is not read there as it is in {own}"
    return None


def _outline(found: BatchNorms, prefix: str) -> dict[str, Any]:
    """Norms and merges by name, the base model's prefix taken off."""
    sites: dict[str, Any] = {
        site.name.removeprefix(prefix): (
            site.kind,
            tuple(m.weight.removeprefix(prefix) for m in site.maps),
        )
        for site in found.sites
    }
    merges = {
        merge.into.module.removeprefix(prefix): tuple(
            m.weight.removeprefix(prefix) for m in merge.others
        )
        for merge in found.merges
    }
    return sites | merges
