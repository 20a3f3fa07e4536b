"""Write a centred LayerNorm checkpoint in the dialect of a stock RMSNorm class.

Contract: exact. Every source parameter goes where the mapping says: renamed, cut out of a fused
tensor, its query and key channels reordered for another rotary layout. A norm's γ becomes the
RMSNorm's weight (γ − 1 is stored as γ), its β the bias of the linears that read it: b + W β.
Tensors that the target has and the source has not are zeros or ones, as the mapping says.
Refuses: anything that it would have to leave out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.model import NormSite
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.twin import meta_model
from normsurgery.checkpoint import Checkpoint, LazyTensor, is_all_zero
from normsurgery.errors import UnsupportedModelError
from normsurgery.native.config import TargetConfig, filled, head_dim_of, target_config
from normsurgery.native.cuts import CUTS
from normsurgery.native.mapping import NativeMapping
from normsurgery.native.rotary import channel_order, reordered, rotary_dim
from normsurgery.surgery.algebra import contracted
from normsurgery.surgery.fold_norm import Vector, shift_of, stream_sites
from normsurgery.surgery.receipt import Receipt, receipt_of

_HINT = "normsurgery inspect MODEL   # what does apply"
_QUERY_KEY = r".*\.self_attn\.[qk]_proj\.(weight|bias)"


@dataclass(frozen=True)
class Retarget:
    """A mapping chosen for an examined checkpoint, ready for its files and the twin's alike.

    head: the target's class name without its family. spare: tensors beyond those of the class
    that a later step takes up (the head's bias, for the absorber). zero_final: the final norm's β
    is zero on disk, which is checked when the step is applied.
    """

    mapping: NativeMapping
    examination: Examination
    head: str
    spare: tuple[str, ...] = ()
    zero_final: bool = False

    @property
    def class_name(self) -> str:
        return f"{self.mapping.target.family}{self.head}"

    @property
    def model_class(self) -> Any:
        import transformers

        return getattr(transformers, self.class_name)

    def __call__(self, source: Checkpoint) -> tuple[Checkpoint, Receipt]:
        """The checkpoint in the target's dialect, and what was done."""
        return _Run(self, source).run()


@dataclass
class _Run:
    plan: Retarget
    source: Checkpoint
    moved: dict[str, tuple[LazyTensor, str]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.mapping = self.plan.mapping
        self.names: NameMap = self.plan.examination.names
        self.config = filled(self.plan.examination, self.source)

    def run(self) -> tuple[Checkpoint, Receipt]:
        parameters = self._parameters()
        self._take_norms(parameters)
        flags = self._flags(parameters)
        target = target_config(self.mapping, self.plan.examination, self.source, flags)
        for name, (tensor, beside) in parameters.items():
            self._move(name, tensor, beside, target.config)
        filled_in = self._fill(target.config)
        self._reorder()
        result = self.source.replaced(
            {self._stored(name): held for name, held in self.moved.items()}
        ).with_config(target.to_json(self.plan.class_name, self.source.config))
        return result, self._receipt(result, target, filled_in)

    def _parameters(self) -> dict[str, tuple[LazyTensor, str]]:
        """Canonical parameter name → its value, and the tensor on disk that holds it."""
        prefix = self.plan.examination.twin.model.base_model_prefix + "."
        base = not any(part.parameter.startswith(prefix) for part in self.names.parts.values())
        found: dict[str, tuple[LazyTensor, str]] = {}
        for name, part in self.names.parts.items():
            if part.index is not None or part.transposed:
                raise UnsupportedModelError(f"{name} holds a piece of {part.parameter}", _HINT)
            if name in self.source:
                found[(prefix if base else "") + part.parameter] = (self.source[name], name)
        for name in self.names.joins:
            raise UnsupportedModelError(f"{name} joins several parameters", _HINT)
        self.prefix = prefix if base else ""
        return found

    def _take_norms(self, parameters: dict[str, tuple[LazyTensor, str]]) -> None:
        """Move every γ's offset into it and every β into the biases that read it."""
        for site in stream_sites(self.plan.examination.anatomy):
            norm = site.norm
            if site.role == "final" and self.mapping.target.keeps_final:
                continue
            if norm.weight_name and norm.offset:
                tensor, beside = parameters[self.prefix + norm.weight_name]
                plus = tensor.map(partial(_plus, number=norm.offset), by_rows=True)
                parameters[self.prefix + norm.weight_name] = plus, beside
            if norm.bias_name:
                _, beside = parameters.pop(self.prefix + norm.bias_name)
                self._take_shift(site, beside, parameters)

    def _take_shift(
        self, site: NormSite, beside: str, parameters: dict[str, tuple[LazyTensor, str]]
    ) -> None:
        if site.role == "final" and self.plan.zero_final:
            if not is_all_zero(self.source[beside]):
                raise UnsupportedModelError(f"{beside} is not zero", _HINT)
            return
        reason = why_not_shift(site)
        if reason:
            raise UnsupportedModelError(reason, _HINT)
        beta = shift_of(self.source, self.names, site.norm)
        assert beta is not None  # the norm has a bias
        for reader in site.readers:
            weight, at = parameters[self.prefix + reader.weight]
            bias = self.prefix + (reader.bias or f"{reader.module}.bias")
            held = parameters.get(bias)
            made = _shifted(held[0] if held else None, weight, beta, reader.in_dim)
            parameters[bias] = made, held[1] if held else at

    def _flags(self, parameters: Mapping[str, Any]) -> list[str]:
        """The target's flags that these parameters need."""
        produced = [
            target.replace("{part}", "x")
            for name in parameters
            for move in self.mapping.moves
            if (target := move.target_of(name)) is not None
        ]
        return [
            flag
            for flag, pattern in self.mapping.target.flags.items()
            if any(re.fullmatch(pattern, name) for name in produced)
        ]

    def _move(self, name: str, tensor: LazyTensor, beside: str, config: Any) -> None:
        rules = [move for move in self.mapping.moves if move.target_of(name) is not None]
        reasons = [why for p, why in self.mapping.dropped.items() if re.fullmatch(p, name)]
        if reasons:
            self.left_out.update(reasons)
            return
        if not rules:
            raise UnsupportedModelError(
                f"{self.mapping.target.family} has no place for {name}", _HINT
            )
        for move in rules:
            template = move.target_of(name) or ""
            pieces = CUTS[move.cut](config, self.config) if move.cut else {"": lambda whole: whole}
            for part, cut in pieces.items():
                self.moved[template.replace("{part}", part)] = cut(tensor), beside

    def _fill(self, config: Any) -> list[str]:
        """Add what the target has beyond the source; check every shape.

        Raises UnsupportedModelError for a tensor without a place, or a place without a tensor.
        """
        wanted = {
            self._canonical(name): tuple(value.shape)
            for name, value in meta_model(self.plan.model_class, config).state_dict().items()
        }
        tied = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
        beside = next(iter(self.moved.values()))[1]
        dtype = self.source[beside].dtype
        added = []
        for name, shape in wanted.items():
            value = self._fill_value(name)
            if name not in self.moved and value is not None:
                self.moved[name] = _constant(value, dtype, shape), self._neighbour(name, beside)
                added.append(name)
        for name, (tensor, _) in self.moved.items():
            shape = wanted.get(name, tensor.shape)
            known = name in wanted or name in self.plan.spare or self._renamed_on_load(name)
            if not known or tensor.shape != shape:
                raise UnsupportedModelError(
                    f"{self.plan.class_name} has no {name} {list(tensor.shape)}", _HINT
                )
        missing = [name for name in wanted if name not in {*self.moved, *tied}]
        if missing and not any(map(self._renamed_on_load, self.moved)):
            raise UnsupportedModelError(f"nothing becomes {missing[0]}", _HINT)
        return added

    def _renamed_on_load(self, name: str) -> bool:
        """Whether the target's loader stacks this tensor with others; the proof loads them all."""
        return ".block_sparse_moe." in name

    def _fill_value(self, name: str) -> float | None:
        fills = self.mapping.target.fills.items()
        return next((value for pattern, value in fills if re.fullmatch(pattern, name)), None)

    def _neighbour(self, name: str, default: str) -> str:
        """The source tensor whose file a made-up tensor goes to: that of the same layer."""
        layer = name.rpartition(".")[0].rpartition(".")[0]
        near = (at for other, (_, at) in self.moved.items() if layer and other.startswith(layer))
        return next(near, default)

    def _reorder(self) -> None:
        """Permute the query and key channels to the pairs that the target turns."""
        target = self.mapping.target
        if not target.rotary:
            return
        width = head_dim_of(self.config)
        order = channel_order(target, rotary_dim(self.config, width), width)
        if order is None:
            return
        for name, (tensor, beside) in self.moved.items():
            if re.fullmatch(_QUERY_KEY, name):
                self.moved[name] = tensor.map(partial(reordered, order=order)), beside
                self.touched.add(name)

    def _canonical(self, name: str) -> str:
        prefix = self.plan.model_class.base_model_prefix + "."
        return name if self.plan.head != "Model" else prefix + name

    def _stored(self, name: str) -> str:
        prefix = self.plan.model_class.base_model_prefix + "."
        return name if self.plan.head != "Model" else name.removeprefix(prefix)

    def _receipt(self, result: Checkpoint, target: TargetConfig, added: list[str]) -> Receipt:
        notes = [f"left out: {reason}" for reason in sorted(self.left_out)]
        if self.names.carried:
            notes.append(f"buffers that code computes are left out: {_some(self.names.carried)}")
        if target.dropped:
            notes.append(f"configuration keys that {self.plan.class_name} lacks: "
                         f"{', '.join(sorted(target.dropped))}")  # fmt: skip
        changed = {name for name in result if name in self.source
                   and result[name].source is not self.source[name].source}  # fmt: skip
        return receipt_of(
            "retarget", self.source, result, changed=changed, notes=notes,
            parameters={"mapping": str(self.mapping), "moved": len(self.moved) - len(added),
                        "filled": len(added), "reordered": len(self.touched)},
            norms=self._norms(),
        )  # fmt: skip

    def _norms(self) -> dict[str, dict[str, int]]:
        reading = len(list(stream_sites(self.plan.examination.anatomy)))
        kept = int(self.mapping.target.keeps_final)
        after = {"RMSNorm": reading - kept, "LayerNorm": kept}
        return {
            "before": {"LayerNorm": reading},
            "after": {kind: count for kind, count in after.items() if count},
        }


def why_not_shift(site: NormSite) -> str | None:
    """Why a norm's β cannot become the bias of what reads it, or None."""
    if site.unfoldable:
        return f"{site.name} has a β that cannot leave it: {site.unfoldable}"
    return None


def _plus(weight: Tensor, *, number: float) -> Tensor:
    return (weight.double() + number).to(weight.dtype)


def _shifted(bias: LazyTensor | None, weight: LazyTensor, beta: Vector, dim: int) -> LazyTensor:
    """b + W β, or W β where there is no b."""

    def make() -> Tensor:
        stored = weight.load()
        total = contracted(stored, beta(), dim=dim)
        if bias is not None:
            total = total + bias.load().double()
        return total.to(stored.dtype)

    return LazyTensor.compute(make, weight.dtype, (weight.shape[1 - dim % 2],))


def _constant(value: float, dtype: str, shape: tuple[int, ...]) -> LazyTensor:
    from normsurgery.checkpoint.dtypes import torch_dtype

    return LazyTensor.compute(
        lambda: torch.full(shape, value, dtype=torch_dtype(dtype)), dtype, shape
    )


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
