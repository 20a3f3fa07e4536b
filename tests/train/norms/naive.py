"""GPT-2 and GPT-NeoX written out, with a σ for each path and token: what `attach` is held against.

spread(path, x) gives the divisor [batch, time, 1] of one path; `true_sigma` is the untouched one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

Spread = Callable[[str, Tensor], Tensor]


def true_sigma(path: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance: Tensor = centred.square().mean(-1, keepdim=True)
    return (variance + 1e-5).sqrt()


def _norm(module: Any, x: Tensor, sigma: Tensor) -> Tensor:
    y: Tensor = module.weight * (x - x.mean(-1, keepdim=True)) / sigma + module.bias
    return y


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[batch, heads, time, head] each → [batch, time, width], causal."""
    time = q.shape[2]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), float("-inf"))
    mixed: Tensor = scores.softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def gpt2(model: Any, ids: Tensor, spread: Spread) -> Tensor:
    """Logits [batch, time, vocabulary]."""
    core, heads = model.transformer, model.config.n_head
    x = core.wte.weight[ids] + core.wpe.weight[: ids.shape[1]]
    for number, block in enumerate(core.h):
        name, width = f"transformer.h.{number}", x.shape[-1]
        fused, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        scored = _norm(block.ln_1, x, spread(f"{name}.ln_1:qk", x))
        valued = _norm(block.ln_1, x, spread(f"{name}.ln_1:v", x))
        qk = scored @ fused[:, : 2 * width] + bias[: 2 * width]
        v = valued @ fused[:, 2 * width :] + bias[2 * width :]
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (qk[..., :width], qk[..., width:], v)
        )
        x = x + _attend(q, k, v) @ block.attn.c_proj.weight + block.attn.c_proj.bias
        inner = _norm(block.ln_2, x, spread(f"{name}.ln_2", x))
        inner = gelu(inner @ block.mlp.c_fc.weight + block.mlp.c_fc.bias, approximate="tanh")
        x = x + inner @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
    head: Tensor = core.wte.weight
    return _norm(core.ln_f, x, spread("transformer.ln_f", x)) @ head.T


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    left, right = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-right, left], -1) * sin, rest], -1)


def gpt_neox(model: Any, ids: Tensor, spread: Spread) -> Tensor:
    """Logits, of the parallel form: [q | k | v] head by head, attention and MLP from one stream."""
    core, heads = model.gpt_neox, model.config.num_attention_heads
    x = core.embed_in.weight[ids]
    cos, sin = core.rotary_emb(x, torch.arange(ids.shape[1])[None])
    for number, block in enumerate(core.layers):
        name = f"gpt_neox.layers.{number}"
        fused = block.attention.query_key_value
        weight = fused.weight.view(heads, 3, -1, x.shape[-1])
        bias = fused.bias.view(heads, 3, -1)
        scored = _norm(block.input_layernorm, x, spread(f"{name}.input_layernorm:qk", x))
        valued = _norm(block.input_layernorm, x, spread(f"{name}.input_layernorm:v", x))
        q, k, v = (
            torch.einsum("btc,hdc->bhtd", source, weight[:, piece]) + bias[:, piece][:, None]
            for piece, source in enumerate((scored, scored, valued))
        )
        mixed = _attend(_rotated(q, cos, sin), _rotated(k, cos, sin), v)
        after = f"{name}.post_attention_layernorm"
        inner = _norm(block.post_attention_layernorm, x, spread(after, x))
        up, down = block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h
        inner = gelu(inner @ up.weight.T + up.bias) @ down.weight.T + down.bias
        x = x + inner + mixed @ block.attention.dense.weight.T + block.attention.dense.bias
    last = _norm(core.final_layer_norm, x, spread("gpt_neox.final_layer_norm", x))
    head: Tensor = model.lm_head.weight
    return last @ head.T
