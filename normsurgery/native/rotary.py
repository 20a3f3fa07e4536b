"""Partial and interleaved rotary positions in code that rotates whole heads by halves.

A rotary embedding turns pairs of channels of a head. Which channels make a pair, and how fast each
pair turns, differs by class; since queries and keys only meet in a dot product, their channels may
be permuted alike. Pairs that must not turn get a frequency of (almost) zero through LongRoPE's
table of factors (arXiv 2402.13753), used as an explicit frequency table: with a base of 1 the
inverse frequency of pair i is 1 / factor_i, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsurgery.native.mapping import Target

_STILL = 1e30  # turns 1e-30 radians a token: cos is 1 and sin 0 at every position


def rotary_dim(config: Any, head_dim: int) -> int:
    """How many channels of a head the source turns."""
    return int(head_dim * _given(config).get("partial_rotary_factor", 1.0))


def why_not_rotary(config: Any, head_dim: int) -> str | None:
    """Why the source's rotary positions cannot be those of a class that turns whole heads."""
    turned = rotary_dim(config, head_dim)
    kind = _given(config).get("rope_type", "default")
    if turned == head_dim:
        return None
    if turned % 2 or head_dim % 2 or not turned:
        return f"{turned} of {head_dim} channels of a head are rotary, which are no whole pairs"
    if kind != "default":
        return f"partial rotary positions of type {kind} have no frequency table"
    return None


def rope_parameters(config: Any, head_dim: int) -> dict[str, Any]:
    """The target's `rope_parameters` for a source configuration."""
    source = _given(config)
    turned = rotary_dim(config, head_dim)
    source.pop("partial_rotary_factor", None)
    if turned == head_dim:
        return source
    exponents = torch.arange(0, turned, 2, dtype=torch.float32) / turned
    table = (source["rope_theta"] ** exponents).tolist()  # as the source's code computes it
    factors = table + [_STILL] * ((head_dim - turned) // 2)
    return {
        "rope_type": "longrope", "rope_theta": 1.0, "factor": 1.0, "attention_factor": 1.0,
        "short_factor": factors, "long_factor": list(factors),
        "original_max_position_embeddings": config.max_position_embeddings,
    }  # fmt: skip


def channel_order(target: Target, turned: int, head_dim: int) -> list[int] | None:
    """For each channel of a target head, the source's channel; None where they are the same.

    The source pairs i with i + turned / 2 and passes the channels from `turned` on.
    """
    firsts = [*range(turned // 2), *range(turned, turned + (head_dim - turned) // 2)]
    seconds = [*range(turned // 2, turned), *range(turned + (head_dim - turned) // 2, head_dim)]
    if target.rotary == "interleaved":
        order = [channel for pair in zip(firsts, seconds, strict=True) for channel in pair]
    else:
        order = firsts + seconds
    return None if order == list(range(head_dim)) else order


def reordered(tensor: Tensor, *, order: list[int]) -> Tensor:
    """A query or key projection [heads × head_dim, …] with every head's channels reordered."""
    heads = tensor.shape[0] // len(order)
    by_head = tensor.reshape(heads, len(order), *tensor.shape[1:])
    return by_head[:, order].reshape(tensor.shape).contiguous()


def _given(config: Any) -> dict[str, Any]:
    """The source's rotary parameters; older configurations (ESM) hold a base and nothing else."""
    found = getattr(config, "rope_parameters", None)
    return dict(found or {"rope_type": "default", "rope_theta": config.rope_theta})
