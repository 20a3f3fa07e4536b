"""Fold BatchNorms into the convolutions and linears beside them.

Contract: exact at inference. BN(x) = a ⊙ x + c with a = γ/√(σ² + ε), c = β − a μ.
* into the producer (map → BN): W ← diag(a) W over outputs, b ← a b + c;
* into the consumers (BN → maps, unpadded): W ← W diag(a) over inputs, b ← b + Σ W c;
* through a branch (BN(x) beside a stride-1 "same" convolution of x): the centre tap takes a's
  diagonal.
keep: names and shapes stay, and the norm becomes x + shift (see `identity`); the shift is
zero where the map's own bias takes it. graft: the norm's tensors go, maps get a bias, and parallel
maps of one tensor become one ("RepVGG", arXiv 2101.03697).
Everything is computed in float64 from the stored tensors and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.batchnorm.maps import FoldedMap, folded_maps
from normsurgery.surgery.batchnorm.norms import reduced_norm, stored_norms
from normsurgery.surgery.batchnorm.plan import BatchNormPlan, Form, plan_folds, tensors_of
from normsurgery.surgery.receipt import Receipt, receipt_of
from normsurgery.surgery.set_parameters import FLOATING


def fold_batch_norms(
    source: Checkpoint,
    names: NameMap,
    found: BatchNorms,
    *,
    form: Form,
    unfolded: Collection[str] = (),
) -> tuple[Checkpoint, Receipt]:
    """The checkpoint with its BatchNorms folded, and the receipt.

    names: where the parameters stand in `source`; for a graft, each under its own name.
    unfolded: norms that lose their scale and shift without a map taking them: wrong on purpose, for
    a negative control.
    Raises CheckpointError, when the result is read, for a running variance below −ε.
    """
    dtypes = {name: tensor.dtype for name, tensor in source.items()}
    plan = plan_folds(found, names, form=form, dtypes=dtypes)
    return apply_folds(source, names, plan, unfolded=unfolded)


def apply_folds(
    source: Checkpoint, names: NameMap, plan: BatchNormPlan, *, unfolded: Collection[str] = ()
) -> tuple[Checkpoint, Receipt]:
    """`fold_batch_norms`, by a plan."""
    norms = stored_norms(source, names, plan, unfolded=unfolded)
    edits: dict[str, LazyTensor] = {}
    added: dict[str, tuple[LazyTensor, str]] = {}
    beside: dict[str, Callable[[], Tensor]] = {}
    for folded in folded_maps(source, names, plan, norms):
        weight = partial(_replaced, folded.weight)
        for name, part in names.on_disk(folded.map.weight):
            edits[name] = source[name].map(partial(weight, part))
        if not folded.shifted:
            if folded.others and folded.fed:
                beside[folded.fed.name] = folded.merged_shift
            continue
        if folded.map.bias:
            for name, part in names.on_disk(folded.map.bias):
                edits[name] = source[name].map(partial(_replaced, folded.bias, part))
        else:
            added |= _new_bias(source, names, folded)
    for site in plan.kept:
        edits |= reduced_norm(
            source, names, plan, site, norms[site.name], beside=beside.get(site.name)
        )
    added |= _blank_biases(source, names, plan)
    result = _written(source.override(edits), added, _dropped(source, names, plan))
    return result, receipt_of(
        f"fold-bn-{plan.form}", source, result,
        changed=[name for name in edits if name in result],
        parameters=_parameters(plan), norms=_counts(plan),
    )  # fmt: skip


def _replaced(make: Callable[[], Tensor], part: Part, stored: Tensor) -> Tensor:
    return part.cut(make()).to(stored.dtype).contiguous()


def _new_bias(
    source: Checkpoint, names: NameMap, folded: FoldedMap
) -> dict[str, tuple[LazyTensor, str]]:
    """The bias of a map that had none: under the module's name, beside its weight."""
    beside = names.on_disk(folded.map.weight)[0][0]
    spelled = source[beside].dtype

    def make() -> Tensor:
        return folded.bias().to(FLOATING[spelled]).contiguous()

    tensor = LazyTensor.compute(make, spelled, (folded.outputs,))
    return {_bias_beside(names, folded.map.weight): (tensor, beside)}


def _bias_beside(names: NameMap, weight: str) -> str:
    """The name on disk of the bias that belongs to a weight."""
    name = names.on_disk(weight)[0][0]
    return f"{name.rpartition('.')[0]}.bias"


def _blank_biases(
    source: Checkpoint, names: NameMap, plan: BatchNormPlan
) -> dict[str, tuple[LazyTensor, str]]:
    """Biases of maps that never run, in a class that has them."""
    added = {}
    for bias in plan.blank:
        weight = f"{bias.rpartition('.')[0]}.weight"
        beside = names.on_disk(weight)[0][0]
        zeros = torch.zeros(source[beside].shape[0], dtype=FLOATING[source[beside].dtype])
        added[_bias_beside(names, weight)] = (LazyTensor.of(zeros), beside)
    return added


def _written(
    result: Checkpoint, added: dict[str, tuple[LazyTensor, str]], dropped: set[str]
) -> Checkpoint:
    for name, (tensor, beside) in added.items():
        result = result.add({name: tensor}, beside=beside)
    return result.drop(dropped) if dropped else result


def _dropped(source: Checkpoint, names: NameMap, plan: BatchNormPlan) -> set[str]:
    """Names on disk of what nothing reads any more."""
    gone = {
        name
        for site in plan.sites
        if site.name in plan.gone
        for name in (*tensors_of(site.norm), f"{site.name}.num_batches_tracked")
    }
    gone |= set(plan.unused)
    for merge in plan.merges:
        gone |= {name for m in merge.others for name in (m.weight, m.bias) if name}
    return {name for name, part in names.parts.items() if part.parameter in gone and name in source}


def _parameters(plan: BatchNormPlan) -> dict[str, int]:
    kinds = [site.kind for site in plan.sites]
    counts = {kind: kinds.count(kind) for kind in ("producer", "consumer", "branch")}
    return {
        "folded": len(plan.sites), **counts, "left": len(plan.left),
        "merged_maps": sum(len(merge.others) for merge in plan.merges),
        "new_biases": len(plan.biases),
    }  # fmt: skip


def _counts(plan: BatchNormPlan) -> dict[str, dict[str, int]]:
    """How many norms there were, how many are left, and how many of these only add."""
    after = {"BatchNorm": len(plan.left), "x + shift": len(plan.kept)}
    before = {"BatchNorm": len(plan.sites) + len(plan.left)}
    return {"before": before, "after": {kind: count for kind, count in after.items() if count}}
