"""Read off a twin what every BatchNorm of a model folds into, or why it stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from normsurgery.anatomy.batchnorm.branches import find_branch, find_merges
from normsurgery.anatomy.batchnorm.maps import Use, linear_map
from normsurgery.anatomy.batchnorm.modules import candidates, described, probed
from normsurgery.anatomy.batchnorm.paths import Graph, back, forth
from normsurgery.anatomy.batchnorm.readers import Readers
from normsurgery.anatomy.batchnorm.sites import BatchNorm, BatchNorms, BatchNormSite
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.trace import NORM, Node, trace
from normsurgery.anatomy.twin import Twin
from normsurgery.errors import UnsupportedModelError

# Outputs that a class only hands out when it is asked to: what they show has one more reader.
_SHOWN = ("output_hidden_states", "output_attentions")


@single_thread()
def read_batch_norms(twin: Twin) -> BatchNorms:
    """Every BatchNorm of the twin, with what it folds into.

    A verdict is of the paths that the twin's inputs take. Raises UnsupportedModelError where the
    twin does not run.
    """
    model = twin.model
    modules = candidates(model)
    if not modules:
        return BatchNorms(())
    graph = _recorded(model, twin.inputs, set(modules))
    calls: dict[str, list[Node]] = {name: [] for name in modules}
    for node in graph.recorded.norm_nodes():
        calls[node.module].append(node)
    first = {name: _first_look(graph, name, modules[name], calls[name]) for name in modules}
    placed = {name: look for name, look in first.items() if isinstance(look, BatchNormSite)}
    sites = {
        name: look if isinstance(look, BatchNormSite) else _second_look(graph, look, placed, calls)
        for name, look in first.items()
    }
    merges = find_merges(graph, sites, calls)
    seen = _seen(graph, run_outputs(model, twin.inputs))
    told = (replace(site, seen=site.name in seen) for site in sites.values())
    return BatchNorms(tuple(told), tuple(merges))


def _seen(graph: Graph, outputs: Iterable[str]) -> set[str]:
    """Norms that an output depends on. outputs: names of those that need not be asked for."""
    handed_out = graph.recorded.outputs
    queue = [handed_out[name] for name in outputs if name in handed_out]
    known = set(queue)
    while queue:
        fresh = [parent for parent in queue.pop().parents if parent not in known]
        known.update(fresh)
        queue += fresh
    return {node.module for node in known if node.op == NORM}


def _recorded(model: nn.Module, inputs: Mapping[str, Any], norms: set[str]) -> Graph:
    """The trace of a forward that shows all that it can."""
    reason = ""
    for keys in (_SHOWN, _SHOWN[:1], ()):
        asked = {**inputs, **dict.fromkeys(keys, True)}
        readers = Readers()
        try:
            with torch.random.fork_rng(devices=[]), Float64(), readers:
                torch.manual_seed(0)
                return Graph.of(model, trace(model, asked, norms=norms), readers)
        except Exception as error:  # whatever a class raises at an argument that it does not take
            reason = " ".join(str(error).split())[:160]
    raise UnsupportedModelError(
        f"the twin of {type(model).__name__} does not run: {reason}",
        "please report the model id: what folds is found on the twin",
    )


@dataclass(frozen=True)
class _Open:
    """A norm that no map before it takes in, and why."""

    norm: BatchNorm
    reason: str


def _first_look(
    graph: Graph, name: str, module: nn.Module, calls: list[Node]
) -> BatchNormSite | _Open:
    """Whether the norm is dead, none that can be folded, or folds into what stands before it."""
    norm = described(name, module)
    if (trouble := _read_elsewhere(graph, norm)) != "":
        return BatchNormSite(norm, "stays", reason=trouble)
    if not calls:
        return BatchNormSite(norm, "dead", reason="it is not executed")
    read = calls[0].parents[0].value
    assert read is not None
    found = probed(name, module, tuple(read.shape))
    if found is None:
        reason = "its forward is no affine map of its statistics"
        return BatchNormSite(norm, "stays", reason=reason)
    producer, reason = _producer(graph, found, calls)
    if producer is None:
        return _Open(found, reason)
    return BatchNormSite(found, "producer", (linear_map(producer, graph.model),))


def _second_look(
    graph: Graph,
    look: _Open,
    placed: Mapping[str, BatchNormSite],
    calls: Mapping[str, list[Node]],
) -> BatchNormSite:
    """Whether the norm folds into a convolution beside it or into what reads it."""
    norm = look.norm
    after = "it applies an activation itself"
    if not norm.activates:
        branch = find_branch(graph, norm, calls[norm.name], placed)
        if branch is not None:
            return branch
        consumers, after = _consumers(graph, norm, calls[norm.name])
        if consumers:
            maps = tuple(linear_map(use, graph.model) for use in consumers)
            return BatchNormSite(norm, "consumer", maps)
    return BatchNormSite(norm, "stays", reason=f"{look.reason}; {after}")


def _producer(graph: Graph, norm: BatchNorm, calls: list[Node]) -> tuple[Use | None, str]:
    """The one map before every call of the norm, if it feeds nothing else."""
    found: list[Use] = []
    for call in calls:
        use, reason = back(graph, call.parents[0], _axis(norm, call))
        if use is None:
            return None, reason
        found.append(use)
    first = found[0]
    if any(use.weight is not first.weight for use in found):
        return None, "its calls read the outputs of several maps"
    if (trouble := _other_uses(graph, first, found)) != "":
        return None, trouble
    return first, ""


def _consumers(graph: Graph, norm: BatchNorm, calls: list[Node]) -> tuple[list[Use], str]:
    """The maps that read the norm's output, one use each, if they read nothing else."""
    found: list[Use] = []
    for call in calls:
        uses, reason = forth(graph, call, _axis(norm, call))
        if not uses:
            return [], reason
        found += uses
    for use in found:
        if (trouble := _other_uses(graph, use, found)) != "":
            return [], trouble
    return list({use.weight: use for use in found}.values()), ""


def _other_uses(graph: Graph, use: Use, known: Iterable[Use]) -> str:
    """What else uses the map's tensors, or ""."""
    uses = graph.uses_of(use)
    if uses is None:
        return f"{use.weight.module} or its bias is read by something else too"
    if uses - {other.node for other in known}:
        return f"{use.weight.module} is used elsewhere too"
    return ""


def _axis(norm: BatchNorm, call: Node) -> int:
    assert call.value is not None
    return norm.axis % call.value.dim()


def _read_elsewhere(graph: Graph, norm: BatchNorm) -> str:
    """What reads the norm's own tensors outside its forward, or ""."""
    held = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    tensors = {id(_tensor(graph.model, name)) for name in held if name}
    for name, module in graph.model.named_modules():
        if name == norm.name:
            continue
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(id(tensor) in tensors for tensor in own):
            return f"it shares a tensor with {name}"
    for node in graph.recorded.nodes:
        if node.value is not None and id(node.value) in tensors and node.consumers:
            return f"its tensors are read by {node.consumers[0].module or 'the forward'} too"
    return ""


def _tensor(model: nn.Module, name: str) -> Any:
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute)
