"""The second witness: how often the kernels really read a tensor's memory.

A trace of torch functions could miss a read (code that goes round them, a view held elsewhere).
Below it, at the level of ATen, every kernel that takes in a storage is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager: counts kernels that read a storage; taking a view is no read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts: Counter[int] = Counter()

    def of(self, tensor: Tensor) -> int:
        """Reads of the memory under `tensor`, which must have been kept alive."""
        return self._counts[_storage(tensor)]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        read = {_storage(leaf) for leaf in (*_leaves(args), *_leaves(kwargs))}
        result = func(*args, **kwargs)
        made = {_storage(leaf) for leaf in _leaves(result)}
        mutates = func._schema.is_mutable  # type: ignore[attr-defined]
        if mutates or not made or not made <= read:  # all else only looks at it in another shape
            self._counts.update(read)
        for fresh in made - read:
            self._counts[fresh] = 0  # memory of a tensor that has gone may be given out again
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _leaves(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _leaves(item)
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from _leaves(item)
