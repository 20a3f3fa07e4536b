"""The reference of the tests: a model whose list of blocks is replaced in memory, by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from normsurgery.anatomy.inputs import example_candidates

BY_BLOCK = ("layer_types", "no_rope_layers", "attention_layers")


def rearranged(model: Any, stack: str, order: Sequence[int], config: Any) -> Any:
    """A copy of `model` with the blocks `order` in its list; `config` is its configuration part.

    The numbers that blocks carry for a cache are set anew.
    """
    result = copy.deepcopy(model)
    parent, _, name = stack.rpartition(".")
    blocks = result.get_submodule(stack)
    kept = [copy.deepcopy(blocks[number]) for number in order]
    _hand_on_relative_positions(blocks[0], kept)
    for number, block in enumerate(kept):
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number
    setattr(result.get_submodule(parent), name, nn.ModuleList(kept))
    configs = [getattr(module, "config", None) for module in result.modules()]
    for own in {id(own): own for own in configs if type(own) is type(config)}.values():
        _shorten(own, order)
    return result


def _hand_on_relative_positions(first: Any, kept: list[Any]) -> None:
    """T5 keeps the table of relative positions in block 0 and hands its result on."""
    for block in kept:
        for (name, module), (_, own) in zip(
            block.named_modules(), first.named_modules(), strict=False
        ):
            if hasattr(own, "relative_attention_bias") and name.endswith("SelfAttention"):
                module.has_relative_attention_bias = block is kept[0]
                module.relative_attention_bias = own.relative_attention_bias


def _shorten(config: Any, order: Sequence[int]) -> None:
    for key in BY_BLOCK:
        entries = getattr(config, key, None)
        if entries is not None:
            setattr(config, key, [entries[number] for number in order])
    if hasattr(config, "num_hidden_layers"):
        config.__dict__["num_hidden_layers"] = len(order)


def largest_difference(ours: Any, theirs: Any) -> float:
    """Of the first output (logits, or the last hidden state), over its standard deviation."""
    inputs = next(iter(example_candidates(theirs, batch=2, length=9, seed=3)))
    with torch.no_grad():
        first, second = (model(**inputs, **_plain(model))[0] for model in (ours, theirs))
    assert first.shape == second.shape
    return float((first - second).abs().max() / second.std())


def _plain(model: Any) -> dict[str, Any]:
    return {"use_cache": False} if getattr(model.config, "use_cache", None) else {}
