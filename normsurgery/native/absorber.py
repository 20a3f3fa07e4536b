"""Absorb a bias of the head where the target's head has none: one more block, exact to 1e-7.

Contract: exact. A centred stream has one free direction, the all-ones one. One Householder
reflection H turns it into channel 0, which is then always zero: H goes into the embedding, every
writer and every reader, whose norm's γ is folded in first. The block appended at the end attends
to nothing, and its MLP writes A x̂ + B e₀ with x̂ its normalized input and A ≪ B. The final norm
then divides by B / √d, a constant, so what the head sees is x̂ and a constant channel 0, whose
column of the head becomes the bias.
Refuses: float16 (B overflows), an MLP too narrow for d linear channels, an activation without a
linear combination that is the identity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.checkpoint.dtypes import torch_dtype
from normsurgery.surgery.algebra import in_slabs
from normsurgery.surgery.receipt import Receipt, receipt_of

BOUND = 1e-8  # × the outputs' std, in float64: A and B are finite
HEAD_BIAS = "lm_head.bias"
# B² stays finite in float32. What is lost is |x| / A of the stream and d A² / 2B².
_COPY, _CONSTANT = 2.0**38, 2.0**62
_GATE = 64.0  # act(64) is a power of two for every activation below, to the last bit of float64
_STEEP = 1024.0  # act(±1024 x) is a plain ReLU but for tiny x, so a 16-bit activation loses nothing
# Activations with act(x) − act(−x) = x.
_ODD_IS_LINEAR = {
    "silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu",
}  # fmt: skip
_SQUARE = "relu2"
_ROUGH = 8.0  # x + 8 in bfloat16 keeps x to 1/32; more is above the noise of a whole model

_READERS = {
    r"model\.layers\.(\d+)\.self_attn\.[qkv]_proj\.weight": r"model.layers.\1.input_layernorm",
    r"model\.layers\.(\d+)\.mlp\.(?:gate|up)_proj\.weight":
        r"model.layers.\1.post_attention_layernorm",
}  # fmt: skip
_WRITERS = re.compile(r"model\.layers\.\d+\.(?:self_attn\.o|mlp\.down)_proj\.(?:weight|bias)")
_NORMS = re.compile(r"model\.(?:norm|layers\.\d+\.\w+_layernorm)\.weight")
_TABLE, _HEAD, _FINAL = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def why_not_absorber(config: Any, *, gated: bool, dtype: str) -> str | None:
    """Why the target's configuration has no room for an absorber, or None.

    dtype: of the stored weights, as safetensors spells it.
    """
    if dtype == "F16":
        return (
            "the final norm's β needs an absorber block, which writes 2^62: float16 overflows "
            "(--dtype bfloat16 or float32)"
        )
    act, width, inner = config.hidden_act, config.hidden_size, config.intermediate_size
    if act == _SQUARE and dtype == "BF16" and _offset(width) > _ROUGH:
        return (
            "the final norm's β needs an absorber block, in which relu2 leaves bfloat16 too little "
            f"precision at a width of {width} (--dtype float32)"
        )
    if act not in _ODD_IS_LINEAR and act != _SQUARE:
        return f"the final norm's β needs an absorber block, which {act} cannot make linear"
    needed = width if gated else 2 * width
    if inner < needed:
        return (
            f"the final norm's β needs an absorber block with an MLP of {needed}, "
            f"and intermediate_size is {inner}"
        )
    return None


def absorb(source: Checkpoint, *, gated: bool) -> tuple[Checkpoint, Receipt]:
    """Rotate a Llama-shaped checkpoint, append the block and put the head's bias into column 0.

    source: in the target's dialect with `lm_head.bias` [vocabulary] beside the head, its writers
    centred or not (the rotation centres them).
    """
    config = source.config
    layer, width = config["num_hidden_layers"], config["hidden_size"]
    tensors = {name: (_rotated(source, name), name) for name in source if name != HEAD_BIAS}
    tensors |= {name: (_ones(tensor), name) for name, tensor in source.items()
                if _NORMS.fullmatch(name) and name != _FINAL}  # fmt: skip
    root = math.sqrt(width)
    shift = 2.0 ** round(math.log2(root))
    tensors[_HEAD] = _head(source, residue=root / shift), _HEAD
    tensors[_FINAL] = source[_FINAL].map(partial(_final, shift=shift)), _FINAL
    last = f"model.layers.{layer - 1}."
    block = _Block(config["hidden_act"], width, gated)
    for name in [name for name in source if name.startswith(last)]:
        new = name.replace(last, f"model.layers.{layer}.")
        tensors[new] = block.tensor(new.removeprefix(f"model.layers.{layer}."), source[name]), name
    edited = {**config, "num_hidden_layers": layer + 1}
    result = source.replaced(tensors).with_config(edited)
    changed = [name for name in result if name in source]
    note = (
        f"the final norm's β is absorbed by one more block (layer {layer}); the stream is rotated "
        "so that channel 0 is free"
    )
    return result, receipt_of(
        "absorb-bias", source, result, changed=changed, parameters={"layer": layer}, notes=[note]
    )


def _rotated(source: Checkpoint, name: str) -> LazyTensor:
    tensor = source[name]
    if name == _TABLE:
        return tensor.map(partial(_reflected_rows, gain=None, zero=True), by_rows=True)
    if _WRITERS.fullmatch(name):
        return tensor.map(_reflected_columns)
    for pattern, norm in _READERS.items():
        match = re.fullmatch(pattern, name)
        if match:
            gain = source[match.expand(norm) + ".weight"]
            return tensor.map(partial(_reflected_rows, gain=gain.load), by_rows=True)
    return tensor


def _normal(width: int) -> Tensor:
    """v with H = I − v vᵀ, H 1/√d = e₀, in float64 [width]."""
    v = torch.full((width,), 1 / math.sqrt(width), dtype=torch.float64)
    v[0] -= 1
    scaled: Tensor = v * (math.sqrt(2) / v.norm())
    return scaled


def _reflected_rows(
    weight: Tensor, *, gain: Callable[[], Tensor] | None, zero: bool = False
) -> Tensor:
    """W diag(γ) H; zero: channel 0 of a table of zero-mean rows is zero to the bit."""
    v = _normal(weight.shape[-1])
    scale = gain().double() if gain else None

    def reflect(slab: Tensor, rows: slice) -> Tensor:
        folded = slab if scale is None else slab * scale
        turned = folded - (folded @ v)[:, None] * v
        if zero:
            turned[:, 0] = 0
        return turned

    return in_slabs(weight, reflect)


def _reflected_columns(weight: Tensor) -> Tensor:
    """H W (or H b) with channel 0 exactly zero, which centres it too."""
    v = _normal(weight.shape[0])
    wide = weight.double()
    along = v @ wide
    turned = wide - (v[:, None] * along if wide.dim() > 1 else v * along)
    turned[0] = 0
    rounded: Tensor = turned.to(weight.dtype)
    return rounded


def _head(source: Checkpoint, *, residue: float) -> LazyTensor:
    """(W diag(γ) H with W β for column 0) / residue."""
    gain, bias = source[_FINAL], source[HEAD_BIAS]
    head = source[_HEAD]

    def make() -> Tensor:
        weight = head.load()
        v, scale = _normal(weight.shape[1]), gain.load().double()
        shift = bias.load().double()

        def reflect(slab: Tensor, rows: slice) -> Tensor:
            folded = slab * scale
            turned = folded - (folded @ v)[:, None] * v
            turned[:, 0] = shift[rows]
            return turned / residue

        return in_slabs(weight, reflect)

    return LazyTensor.compute(make, head.dtype, head.shape)


def _ones(tensor: LazyTensor) -> LazyTensor:
    return tensor.map(torch.ones_like)


def _final(weight: Tensor, *, shift: float) -> Tensor:
    """Powers of two that undo the copy's scale, and leave √d / shift for the head."""
    gains = torch.full_like(weight, _CONSTANT / _COPY / shift)
    gains[0] = 1 / shift
    return gains


@dataclass(frozen=True)
class _Block:
    """The appended block: zero attention, and an MLP that writes A x̂ + B e₀."""

    act: str
    width: int
    gated: bool

    def tensor(self, name: str, like: LazyTensor) -> LazyTensor:
        """One of its tensors, shaped as that of the block before it."""

        def make() -> Tensor:
            made = torch.zeros(like.shape, dtype=torch_dtype(like.dtype))
            if name.endswith("_layernorm.weight"):
                made.fill_(1)
            elif name.startswith("mlp."):
                self._fill(name.removeprefix("mlp."), made)
            return made

        return LazyTensor.compute(make, like.dtype, like.shape)

    def _fill(self, name: str, made: Tensor) -> None:
        channels = torch.arange(self.width)
        scale, offset, copy = self._scales()
        if name == "up_proj.weight":
            made[channels, channels] = scale
            if not self.gated:
                made[self.width + channels, channels] = -scale
        elif name == "up_proj.bias" and not self.gated:
            made[: 2 * self.width] = offset
        elif name == "gate_proj.bias":
            made.fill_(_GATE)
        elif name == "down_proj.weight":
            made[channels[1:], channels[1:]] = copy
            if not self.gated:
                made[channels[1:], self.width + channels[1:]] = -copy
        elif name == "down_proj.bias":
            made[0] = _CONSTANT

    def _scales(self) -> tuple[float, float, float]:
        """(of the inner projection, its bias, of the outer projection): all powers of two."""
        if self.gated:
            return 1.0, 0.0, _COPY / (_GATE**2 if self.act == _SQUARE else _GATE)
        if self.act == _SQUARE:  # (x + c)² − (c − x)² = 4 c x, with c at least every |x| ≤ √d
            offset = _offset(self.width)
            return 1.0, offset, _COPY / (4 * offset)
        return _STEEP, 0.0, _COPY / _STEEP


def _offset(width: int) -> float:
    """The least power of two that no channel of a normalized row of this width exceeds."""
    return 2.0 ** math.ceil(math.log2(math.sqrt(width)))
