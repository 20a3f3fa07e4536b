"""The second witness: how often the kernels really read a tensor's memory.

A trace of torch functions could miss a read (code that goes round them, a view held elsewhere).
Below it, at the level of ATen, every kernel that takes in a storage is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from normsurgery.anatomy.trace import tensors_in


class Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager: counts kernels that read a storage; taking a view is no read.

    A kernel that writes into the storage ends a version of it, which it has read too.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts: dict[int, Counter[int]] = {}

    def of(self, tensor: Tensor, version: int) -> int:
        """Reads of the memory under `tensor`, which must have been kept alive, at that version."""
        return self._counts.get(_storage(tensor), Counter())[version]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        read = {
            _storage(leaf): 0 if leaf.is_inference() else leaf._version
            for leaf in (*tensors_in(args), *tensors_in(kwargs))
        }
        result = func(*args, **kwargs)
        made = {_storage(leaf) for leaf in tensors_in(result)}
        mutates = func._schema.is_mutable  # type: ignore[attr-defined]
        if mutates or not made or not made <= read.keys():  # all else only takes a view
            for storage, version in read.items():
                self._counts.setdefault(storage, Counter())[version] += 1
        for fresh in made - read.keys():
            self._counts[fresh] = Counter()  # the memory of a tensor that has gone, given out again
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
