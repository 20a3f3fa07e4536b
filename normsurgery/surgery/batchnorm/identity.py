"""What a BatchNorm stores once its scale is folded away: the identity, to the last bit.

At inference a BatchNorm gives weight · (x − mean) / √(var + ε) + bias. With var 1 − ε and weight 1
that is x + bias in float32, but 1 − ε is no bfloat16 or float16 number (and a float32 file may be
loaded in either): 1 is off by ε/2. With var 4⁷ and weight 2⁷ the ε is below float32's last digit,
in which every backend computes the scale, and all numbers are exact in every format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

# Squares whose roots are exact: the second is for an ε that the first still feels.
_SQUARES = ((16384.0, 128.0), (36864.0, 192.0))
_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Identity:
    """The norm's running_var and weight, and `gain`: the x-coefficient that it then computes.

    gain is 1 wherever the form is an identity; a norm without a weight in a format that cannot
    hold 1 − ε has a gain beside 1, which the map takes up.
    """

    running_var: float
    weight: float
    gain: float = 1.0


def identity_for(dtypes: Iterable[str], eps: float, *, weighted: bool) -> Identity:
    """The identity form of a norm whose tensors are stored in `dtypes` (safetensors' spelling).

    weighted: whether the norm has a weight of its own.
    """
    stored = set(dtypes)
    if weighted and stored != {"F64"}:
        for variance, weight in _SQUARES:
            if _scale_in_float32(variance, eps, weight) == 1.0:
                return Identity(variance, weight)
    variance = max(0.0, 1.0 - eps)
    narrow = stored & {"BF16", "F16"}
    for dtype in narrow:
        variance = float(torch.tensor(variance, dtype=torch.float64).to(_TORCH[dtype]))
    if not narrow and eps <= 1:  # float32 gives 1 from the rounded 1 − ε, float64 nearly so
        return Identity(variance, 1.0)
    return Identity(variance, 1.0, (variance + eps) ** -0.5)


def _scale_in_float32(variance: float, eps: float, weight: float) -> float:
    """weight / √(var + ε) as code computes it, rounded at each step."""
    total = torch.tensor(variance, dtype=torch.float32) + eps
    return float(weight * (1 / total.sqrt()))
