"""Where a number of the configuration multiplies a tensor.

The model is built again with the number at its identity; the traces of the two are laid side by
side, and the calls whose plain number differs are where it acts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normsurgery.anatomy.axes import SCALINGS
from normsurgery.anatomy.config_places import Key, set_at
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.trace import NORM, Node
from normsurgery.anatomy.twin import Twin, rebuilt_twin

MULTIPLY = {"mul", "__mul__", "__rmul__", "__imul__", "mul_", "multiply"}


class UnmovedError(Exception):
    """A number that no weight can hold; its text says what stands in the way."""


@dataclass(frozen=True)
class Site:
    """A tensor that is multiplied by `factor` (its value with the source's number over that with
    the identity). node: the product; tensor: what is multiplied."""

    node: Node
    tensor: Node
    factor: float


def rebuilt(examination: Examination, key: Key, value: Any) -> Twin:
    """The twin with another number in its configuration and the same weights.

    Raises UnmovedError where the class cannot be built so.
    """
    values = copy.deepcopy(examination.twin.model.config.to_dict())
    set_at(values, key, value)
    try:
        return rebuilt_twin(examination.twin, examination.model_class, values)
    except Exception as error:  # whatever the configuration or the class raises
        reason = " ".join(str(error).split())[:120]
        raise UnmovedError(f"the class cannot be built with {value} there: {reason}") from error


def sites_of(examination: Examination, plain: Twin) -> list[Site]:
    """Where the two twins multiply by different numbers.

    Raises UnmovedError where they differ in more than such numbers.
    """
    ours, theirs = trace_of(examination.twin), trace_of(plain)
    if [node.op for node in ours.nodes] != [node.op for node in theirs.nodes]:
        raise UnmovedError("other functions run without it")
    pairs = zip(ours.nodes, theirs.nodes, strict=True)
    return [_site(node, other) for node, other in pairs if _differs(node, other)]


def _differs(node: Node, other: Node) -> bool:
    """Whether a function is given another number; one that only makes a number does not count."""
    return not _is_number(node) and _numbers(node) != _numbers(other)


def _site(node: Node, other: Node) -> Site:
    pair = list(zip(_numbers(node), _numbers(other), strict=True))
    tensors = [parent for parent in dict.fromkeys(node.parents) if not _is_number(parent)]
    if node.op not in SCALINGS or len(pair) != 1 or len(tensors) != 1:
        raise UnmovedError(f"{node.module or 'the model'} uses it in {node.op}")
    (number, plain), divides = pair[0], node.op not in MULTIPLY
    if divides and node.args[0] is not tensors[0]:
        raise UnmovedError(f"{node.module or 'the model'} divides it by a tensor")
    if not number or not plain:
        raise UnmovedError("it is zero")
    return Site(node, tensors[0], plain / number if divides else number / plain)


def _is_number(leaf: Any) -> bool:
    """Whether it is a tensor of one number that no parameter had a part in."""
    if not isinstance(leaf, Node) or leaf.value is None or leaf.value.numel() != 1:
        return False
    return leaf.value.is_floating_point() and not depends(leaf)


def _numbers(node: Node) -> list[float]:
    """The numbers that a function is given, plain or as tensors."""
    found = []
    for leaf in (*node.args, *node.kwargs.values()):
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            found.append(float(leaf))
        elif _is_number(leaf):
            found.append(float(leaf.value))
    return found


def depends(node: Node) -> bool:
    """Whether a parameter had any part in it."""
    queue, seen = [node], set[Node]()
    while queue:
        current = queue.pop()
        if current.is_parameter or current.op == NORM:
            return True
        if current not in seen:
            seen.add(current)
            queue += current.parents
    return False


def numbers_of(values: Any, keys: dict[str, float], at: Key = ()) -> Iterator[tuple[Key, float]]:
    """Places of these keys in a configuration, those in lists one by one, with their values."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from numbers_of(value, keys, (*at, key))
        elif key in keys and isinstance(value, (list, tuple)):
            for position, item in enumerate(value):
                yield (*at, key, position), float(item)
        elif key in keys and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*at, key), float(value)
