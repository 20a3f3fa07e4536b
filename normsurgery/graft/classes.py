"""Which Auto classes a model type has, and which of them the graft may offer.

A class is offered when its own twin has the same streams as the checkpoint's class: a head that
reads the stream without a norm (CLIP's image classifier) would compute something else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from normsurgery.anatomy.examine import Examination, anatomy_of
from normsurgery.anatomy.model import Anatomy
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.twin import Twin, build_twin
from normsurgery.errors import SurgeryError
from normsurgery.graft.plan import GraftPlan


def auto_classes(config: Any, model_class: type) -> dict[str, str]:
    """Auto class → model class name, for a stock model type; from `auto_map` for remote code."""
    remote = getattr(config, "auto_map", None) or {}
    if not model_class.__module__.startswith("transformers."):
        return {
            auto: reference.split(".")[-1]
            for auto, reference in remote.items()
            if auto.startswith("AutoModel") and isinstance(reference, str)
        }
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for auto, candidate in vars(modeling_auto).items():
        mapping = getattr(candidate, "_model_mapping", None)
        if not auto.startswith("AutoModel") or mapping is None:
            continue
        named = mapping._model_mapping.get(config.model_type)
        if named:
            found[auto] = named if isinstance(named, str) else named[0]
    return found


@single_thread()
def offered_classes(
    examination: Examination,
    *,
    part: str | None = None,
    folded: Collection[str] = (),
    plan: GraftPlan | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Auto classes that the graft may offer, and for the others the reason why not.

    part: the module that the surgery keeps to.
    folded: norm sites whose γ and β were moved into the readers that the checkpoint's class has.
    plan: of a norm-free graft, whose norms need not be LayerNorms of a stream without a mean.
    """
    import transformers

    def judge(anatomy: Anatomy, prefix: str) -> str | None:
        if plan is not None and plan.norm_free:
            return _why_not_norm_free(examination.anatomy, anatomy, prefix, plan)
        return _why_not(examination, anatomy, prefix, part, folded)

    wanted = auto_classes(examination.config, examination.model_class)
    own = examination.model_class.__name__
    verdicts: dict[str, str | None] = {own: None}
    for name in wanted.values():
        if name not in verdicts:
            verdicts[name] = _judged(examination, getattr(transformers, name, None), judge)
    offered = {auto: name for auto, name in wanted.items() if verdicts[name] is None}
    refused = {name: reason for name, reason in verdicts.items() if reason}
    return offered, refused


def _judged(
    examination: Examination,
    model_class: type | None,
    judge: Callable[[Anatomy, str], str | None],
) -> str | None:
    if model_class is None:
        return "transformers cannot build it here"
    try:
        anatomy = anatomy_of(_shallow_twin(model_class, examination.config))
    except SurgeryError as error:
        return error.message
    return judge(anatomy, f"{getattr(examination.model_class, 'base_model_prefix', '')}.")


def _why_not(
    examination: Examination,
    anatomy: Anatomy,
    prefix: str,
    part: str | None,
    folded: Collection[str],
) -> str | None:
    if part is not None:
        named = [anatomy.only(part), anatomy.only(part.removeprefix(prefix))]
        anatomy = max(named, key=lambda found: len(found.streams))
        if not anatomy.streams:
            return f"it has no {part}"
    reason = anatomy.why_not()
    if reason:
        return reason
    ours, theirs = _outline(examination.anatomy, prefix), _outline(anatomy, prefix)
    if not theirs <= ours:
        odd = sorted(theirs - ours)[0]
        return (
            f"{odd[1]} is a {odd[0]} of its stream, but not of {examination.anatomy.class_name}'s"
        )
    moved = {name.removeprefix(prefix) for name in folded}
    for site in anatomy.sites.values():
        if site.unfoldable and site.name.removeprefix(prefix) in moved:
            return f"{site.name} has lost its γ and β, and {site.unfoldable}"
    return None


def _why_not_norm_free(ours: Anatomy, theirs: Anatomy, prefix: str, plan: GraftPlan) -> str | None:
    """Every norm that is gone must have the same readers there, which hold it."""
    known = {name.removeprefix(prefix): site for name, site in ours.sites.items()}
    removed = {name.removeprefix(prefix) for name in plan.removed}
    for site in theirs.sites.values():
        short = site.name.removeprefix(prefix)
        if short not in removed:
            continue
        if site.unfoldable:
            return f"{site.name} is gone, and {site.unfoldable}"
        readers = {reader.weight.removeprefix(prefix) for reader in site.readers}
        odd = readers - {reader.weight.removeprefix(prefix) for reader in known[short].readers}
        if odd:
            return f"{sorted(odd)[0]} reads {site.name}, which other readers hold"
    return None


def _shallow_twin(model_class: type, config: Any) -> Twin:
    """A twin of two blocks a stack: heads do not differ by depth. All blocks where two won't do."""
    try:
        return build_twin(model_class, config, depth=2)
    except SurgeryError:
        return build_twin(model_class, config)


def _outline(anatomy: Anatomy, prefix: str) -> set[tuple[str, str]]:
    """Norm sites, writers and centrings by name, the base model's prefix taken off."""
    found: set[tuple[str, str]] = set()
    for stream in anatomy.convertible():
        found |= {("norm site", name.removeprefix(prefix)) for name in stream.sites}
        found |= {("writer", writer.weight.removeprefix(prefix)) for writer in stream.writers}
    return found
