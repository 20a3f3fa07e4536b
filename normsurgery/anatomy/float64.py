"""Run model code entirely in float64, also where it casts to float32 by hand.

Several families hard-code `.float()` or `dtype=torch.float32` around norms, softmax and rotary
embeddings. In a proof that rounding would hide errors below 1e-7, so inside this mode every request
for float32 is answered in float64. The function computed in real arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float64(TorchFunctionMode):
    """Context manager: float32 casts become float64, new float tensors are float64."""

    def __enter__(self) -> Float64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(_widened(leaf) for leaf in args)
        return func(*args, **{key: _widened(leaf) for key, leaf in (kwargs or {}).items()})


def _widened(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
