"""How a source tensor becomes target tensors, where a rename is not all: piece → what it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from normsurgery.checkpoint import LazyTensor
from normsurgery.surgery.algebra import centred

Cut = Callable[[LazyTensor], LazyTensor]


def qkv_by_head(config: Any, source: Any) -> dict[str, Cut]:
    """[heads × 3 × head_dim, …] → q, k, v (GPT-NeoX)."""
    heads = config.num_attention_heads
    return {part: partial(_by_head, heads=heads, which=i) for i, part in enumerate("qkv")}


def qkv_stacked(config: Any, source: Any) -> dict[str, Cut]:
    """[q rows; k rows; v rows, …] → q, k, v (DBRX)."""
    head_dim = config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    starts = {"q": (0, queries), "k": (queries, keys), "v": (queries + keys, keys)}
    return {part: partial(_rows, start=a, count=n) for part, (a, n) in starts.items()}


def experts(config: Any, source: Any) -> dict[str, Cut]:
    """[experts × inner, hidden] → one matrix [inner, hidden] an expert."""
    count = config.num_local_experts
    return {str(i): partial(_share, of=count, which=i) for i in range(count)}


def experts_transposed(config: Any, source: Any) -> dict[str, Cut]:
    """[experts × inner, hidden] → one matrix [hidden, inner] an expert."""
    count = config.num_local_experts
    return {
        str(i): partial(_share, of=count, which=i, transposed=True) for i in range(count)
    }  # fmt: skip


def mask_token(config: Any, source: Any) -> dict[str, Cut]:
    """[1, hidden] → [1, 1, hidden], centred: the trace saw nobody write it to the stream."""
    return {"": _token}


def esm_table(config: Any, source: Any) -> dict[str, Cut]:
    """ESM-2 scales its embeddings by what token dropout left in training, masks apart."""
    if not source.token_dropout:
        return {"": lambda tensor: tensor}
    return {"": lambda tensor: tensor.map(_after_token_dropout, by_rows=True)}


# name → function of the target's configuration and the source's
CUTS: dict[str, Callable[[Any, Any], dict[str, Cut]]] = {
    "qkv_by_head": qkv_by_head,
    "qkv_stacked": qkv_stacked,
    "experts": experts,
    "experts_transposed": experts_transposed,
    "mask_token": mask_token,
    "esm_table": esm_table,
}


def _by_head(tensor: LazyTensor, *, heads: int, which: int) -> LazyTensor:
    width = tensor.shape[0] // (3 * heads)

    def cut() -> Tensor:
        whole = tensor.load()
        pieces = whole.reshape(heads, 3, width, *tensor.shape[1:])[:, which]
        return pieces.reshape(heads * width, *tensor.shape[1:]).contiguous()

    return LazyTensor.compute(cut, tensor.dtype, (heads * width, *tensor.shape[1:]))


def _rows(tensor: LazyTensor, *, start: int, count: int, transposed: bool = False) -> LazyTensor:
    def cut() -> Tensor:
        rows = tensor.rows(start, start + count)
        return rows.T.contiguous() if transposed else rows

    shape = (count, *tensor.shape[1:])
    return LazyTensor.compute(cut, tensor.dtype, shape[::-1] if transposed else shape)


def _share(tensor: LazyTensor, *, of: int, which: int, transposed: bool = False) -> LazyTensor:
    count = tensor.shape[0] // of
    return _rows(tensor, start=which * count, count=count, transposed=transposed)


def _token(tensor: LazyTensor) -> LazyTensor:
    width = tensor.shape[-1]
    return LazyTensor.compute(
        lambda: centred(tensor.load(), dim=-1).reshape(1, 1, width), tensor.dtype, (1, 1, width)
    )


def _after_token_dropout(table: Tensor) -> Tensor:
    """15 % of the tokens are chosen and 80 % of these masked (as `EsmEmbeddings` has it)."""
    return (table.double() * (1 - 0.15 * 0.8)).to(table.dtype)
