"""Which weights can hold a number that multiplies tensors, before it or after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normsurgery.anatomy.axes import ADDITIONS, MOVES, SCALINGS
from normsurgery.anatomy.linears import Linear, Stored, as_linear, stored
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.scaling_sites import MULTIPLY, Site, UnmovedError, depends
from normsurgery.anatomy.trace import NORM, Node, Trace

_PRODUCTS = {"matmul", "__matmul__", "bmm"}


@dataclass
class Factors:
    """Parameters to be multiplied, by name, each by a power of the sites' common factor."""

    powers: dict[str, int] = field(default_factory=dict)

    def add(self, parameter: str, power: int) -> None:
        """Raises UnmovedError where the parameter is to be multiplied twice."""
        if self.powers.setdefault(parameter, power) != power:
            raise UnmovedError(f"{parameter} would have to hold it in two ways")


def absorb(recorded: Trace, norms: Mapping[str, Norm], sites: list[Site]) -> dict[str, int]:
    """Weights that can hold the sites' factor: before each site, or else after it.

    Gives parameter → the power of the factor that it is multiplied by.
    Raises UnmovedError naming what stands in the way.
    """
    factors = Factors()
    for site in sites:
        try:
            _Before(recorded, norms, {site.node}, factors).take(site.tensor, 1)
        except UnmovedError as before:
            try:
                _After(recorded, norms, factors).take(site)
            except UnmovedError:
                raise before from None
    return factors.powers


class _Before:
    """Walks back from a tensor to the weights that made it, past what only hands a factor on."""

    def __init__(
        self, recorded: Trace, norms: Mapping[str, Norm], readers: set[Node], factors: Factors
    ) -> None:
        self.recorded, self.norms = recorded, norms
        self.readers, self.factors = readers, factors

    def take(self, tensor: Node, power: int) -> None:
        """Multiply `tensor` by the factor to that power, in weights that nothing else reads."""
        trial = Factors(dict(self.factors.powers))
        seen: set[Node] = set()
        self._walk(tensor, power, trial, seen)
        exposed = set(self.recorded.outputs.values())
        for node in seen:
            strange = [c for c in node.consumers if c not in seen and c not in self.readers]
            if strange or node in exposed:
                where = strange[0].module if strange else "an output"
                raise UnmovedError(f"{where or 'the model'} reads what it multiplies too")
        self.factors.powers = trial.powers

    def _walk(self, node: Node, power: int, trial: Factors, seen: set[Node]) -> None:
        if node in seen:
            return
        seen.add(node)
        linear = as_linear(node)
        if linear is not None and self._linear(linear, power, trial, seen):
            return
        if node.op == NORM:
            self._norm(node, power, trial)
            return
        parents = _tensors(node)
        if node.op in MOVES or node.op in ADDITIONS or node.op in ("neg", "__neg__"):
            for parent in parents:
                self._walk(parent, power, trial, seen)
            if parents:
                return
        elif node.op in SCALINGS or node.op in _PRODUCTS:
            self._either(node, parents, power, trial, seen)
            return
        raise UnmovedError(f"{node.module or 'the model'}: {node.op} stands before it")

    def _either(
        self, node: Node, parents: list[Node], power: int, trial: Factors, seen: set[Node]
    ) -> None:
        """A product: one of its operands holds the factor."""
        operands = parents[:1] if "div" in node.op else parents
        reasons = []
        for operand in operands:
            attempt, visited = Factors(dict(trial.powers)), set(seen)
            try:
                self._walk(operand, power, attempt, visited)
            except UnmovedError as error:
                reasons.append(error)
                continue
            trial.powers = attempt.powers
            seen |= visited
            return
        raise reasons[0] if reasons else UnmovedError(f"{node.op} stands before it")

    def _linear(self, linear: Linear, power: int, trial: Factors, seen: set[Node]) -> bool:
        """A linear or a table holds it; one that others read hands it on to its argument."""
        weight = stored(linear.weight, linear.out_dim, linear.node)
        if weight is None:
            return False
        others = _other_reads(self.recorded, weight)
        if not others:
            trial.add(weight.name, power)
            if isinstance(linear.bias, Node):
                bias = stored(linear.bias, 0, linear.node)
                if bias is None:
                    raise UnmovedError(f"the bias of {linear.node.module} is computed")
                trial.add(bias.name, power)
            return True
        if linear.kind == "embedding":
            self._table(linear, weight, power, trial)
            return True
        if linear.bias is not None:
            raise UnmovedError(f"{weight.name} is read by {others[0].module} too")
        self._walk(linear.argument, power, trial, seen)
        return True

    def _table(self, linear: Linear, weight: Stored, power: int, trial: Factors) -> None:
        """A table that a head shares: the head's argument makes up for it."""
        trial.add(weight.name, power)
        for other in _uses(self.recorded, weight):
            if other is linear.node:
                continue
            head = as_linear(other)
            if head is None or head.kind != "linear" or head.bias is not None:
                raise UnmovedError(f"{weight.name} is read by {other.module} too")
            _Before(self.recorded, self.norms, {other}, trial).take(head.argument, -power)

    def _norm(self, node: Node, power: int, trial: Factors) -> None:
        norm = self.norms[node.module]
        runs = sum(other.module == node.module for other in self.recorded.norm_nodes())
        if norm.weight_name is None or runs > 1:
            what = "has no gain" if norm.weight_name is None else "runs more than once"
            raise UnmovedError(f"{norm.name} {what}")
        for name in filter(None, (norm.weight_name, norm.bias_name)):
            trial.add(name, power)


def _tensors(node: Node) -> list[Node]:
    """The floating tensors that a function takes, constants left out."""
    return [
        parent
        for parent in dict.fromkeys(node.parents)
        if parent.value is not None and parent.value.is_floating_point() and depends(parent)
    ]


def _uses(recorded: Trace, weight: Stored) -> list[Node]:
    """The nodes that compute with a parameter, moves of it passed through."""
    found: dict[Node, None] = {}
    queue = list(recorded.parameters[weight.name].consumers)
    while queue:
        node = queue.pop()
        if node.op in MOVES and as_linear(node) is None:
            queue += node.consumers
        else:
            found[node] = None
    return list(found)


def _other_reads(recorded: Trace, weight: Stored) -> list[Node]:
    """Uses of a parameter as something else than the same linear (called again, or an expert)."""
    use = weight.path[-1]
    return [n for n in _uses(recorded, weight) if n.module != use.module or n.op != use.op]


class _After:
    """Walks on from a product to the linears that read it; each holds the factor in its weight,
    or what the product is multiplied by holds it (a router's weights and the experts' outputs)."""

    def __init__(self, recorded: Trace, norms: Mapping[str, Norm], factors: Factors) -> None:
        self.recorded, self.norms, self.factors = recorded, norms, factors

    def take(self, site: Site) -> None:
        trial = Factors(dict(self.factors.powers))
        queue, seen = [site.node], set[Node]()
        exposed = set(self.recorded.outputs.values())
        while queue:
            node = queue.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in exposed:
                raise UnmovedError("its product is an output of the model")
            for consumer in node.consumers:
                if consumer.op in MOVES and as_linear(consumer) is None:
                    queue.append(consumer)
                else:
                    self._read(node, consumer, trial)
        self.factors.powers = trial.powers

    def _read(self, node: Node, consumer: Node, trial: Factors) -> None:
        linear = as_linear(consumer)
        where = consumer.module or "the model"
        if linear is not None and linear.argument is node and linear.in_dim is not None:
            weight = stored(linear.weight, linear.in_dim, consumer)
            if weight is None or _other_reads(self.recorded, weight):
                raise UnmovedError(f"{where} shares its weight")
            trial.add(weight.name, 1)
            return
        others = [other for other in _tensors(consumer) if other is not node]
        if consumer.op not in MULTIPLY or len(others) != 1:
            raise UnmovedError(f"{where} reads it with {consumer.op}")
        _Before(self.recorded, self.norms, {consumer}, trial).take(others[0], 1)
