"""Which native classes a checkpoint can become, at what cost, and why not the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.model import Anatomy, NormSite
from normsurgery.anatomy.proof import EXACT_BOUND
from normsurgery.checkpoint import Checkpoint, is_all_zero
from normsurgery.checkpoint.dtypes import BITS
from normsurgery.errors import UnsupportedModelError
from normsurgery.native import absorber
from normsurgery.native.conditions import value_at
from normsurgery.native.config import context_of, filled, head_dim_of
from normsurgery.native.engines import expected_engines
from normsurgery.native.facts import unclipped, why_clipped, with_zero
from normsurgery.native.mapping import NativeMapping
from normsurgery.native.retarget import Retarget, why_not_shift
from normsurgery.native.rotary import why_not_rotary
from normsurgery.native.table import MAPPINGS
from normsurgery.surgery.centre import centre_writers
from normsurgery.surgery.fold_norm import stream_sites
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.untie import separate_head

Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]
_NOTHING_LOST = 0.01  # share of parameters that `auto` may add


@dataclass(frozen=True)
class NativePlan:
    """A native target that fits.

    examination: of the source, with a twin that has the facts the plan relies on. steps: surgeries
    in order. model_class, config: the target's. parameters, parameters_added, bytes: of the result.
    context: the longest input before and after. bound: on the proof's error.
    """

    mapping: NativeMapping
    examination: Examination
    steps: tuple[Step, ...]
    model_class: type
    config: Any
    parameters_added: int
    parameters: int
    bytes: int
    context: tuple[int | None, int | None]
    engines: tuple[str, ...]
    absorbs: bool
    bound: float

    @property
    def lost(self) -> tuple[str, ...]:
        """Outputs of the source's class that the target's does not have."""
        return self.mapping.lost

    @property
    def architecture(self) -> str:
        return self.model_class.__name__

    def why_not_auto(self) -> str | None:
        """Why `--target auto` would rather stay in the source's class, or None."""
        before, after = self.context
        if self.absorbs:
            return "it needs a block that absorbs the final norm's β"
        if before != after:
            return f"the context shrinks from {before} to {after}"
        if self.parameters_added >= _NOTHING_LOST * (self.parameters - self.parameters_added):
            return f"it adds {self.parameters_added:,} parameters"
        if len(self.engines) < 2:
            return "no engine but transformers is expected to gain by it"
        return None

    def to_dict(self) -> dict[str, Any]:
        """The plan as an alternative in a document."""
        return {
            "form": "native",
            "architecture": self.architecture,
            "parameters_added": self.parameters_added,
            "bytes": self.bytes,
            "context": list(self.context),
            "engines": list(self.engines),
        }


@dataclass(frozen=True)
class Refusal:
    """A mapping from the checkpoint's class that does not fit, and why."""

    mapping: NativeMapping
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The refusal as an alternative in a document."""
        return {
            "form": "native", "architecture": self.mapping.target.family, "parameters_added": None,
            "bytes": None, "context": None, "engines": [], "why_not": self.reason,
        }  # fmt: skip


def native_plans(
    checkpoint: Checkpoint,
    examination: Examination,
    *,
    dtype: str | None = None,
    reads_weights: bool = True,
) -> list[NativePlan | Refusal]:
    """A plan or a refusal for every mapping of the checkpoint's class, the best plan first.

    dtype: what the result is stored in, as safetensors spells it; None is the source's.
    Reads at most a bias, and the q, k and v projections where the configuration clips them (with
    reads_weights false, a clip is a refusal that says so).
    """
    import transformers

    name = examination.model_class.__name__
    stock = examination.model_class.__module__.startswith("transformers.")
    found: list[NativePlan | Refusal] = []
    for mapping in MAPPINGS if stock else ():
        head = name.removeprefix(mapping.source)
        if not name.startswith(mapping.source) or not _is_head(head):
            continue
        target = f"{mapping.target.family}{head}"
        if head not in mapping.heads or not hasattr(transformers, target):
            found.append(Refusal(mapping, f"there is no {target} to become"))
            continue
        try:
            found.append(
                _Planner(checkpoint, examination, mapping, head, dtype, reads_weights).plan()
            )
        except UnsupportedModelError as error:
            found.append(Refusal(mapping, error.message))
    return sorted(found, key=lambda one: isinstance(one, Refusal))


@dataclass
class _Planner:
    """One mapping tried on one checkpoint."""

    checkpoint: Checkpoint
    examination: Examination
    mapping: NativeMapping
    head: str
    dtype: str | None
    reads_weights: bool

    def plan(self) -> NativePlan:
        config = filled(self.examination, self.checkpoint)
        self._check(config)
        norm = _final_site(self.examination.anatomy).norm
        keeps = self.mapping.target.keeps_final
        zero = None if keeps else self._zero_bias(norm.bias_name)
        proved = with_zero(self._clip_free(config), zero) if zero else self._clip_free(config)
        after, steps = self.examination, list[Step]()
        if _shared(after.anatomy) and (norm.weight_name or (norm.bias_name and not zero)):
            after, step = separate_head(self.checkpoint, after)
            steps.append(step)
        takes = bool(norm.bias_name) and not zero and not keeps
        absorbs = takes and self._absorbs(_final_site(after.anatomy))
        if not absorbs:  # the absorber's rotation centres as it goes
            steps.append(partial(_centre, examination=after))
        spare = (absorber.HEAD_BIAS,) if absorbs else ()
        retarget = Retarget(self.mapping, after, self.head, spare, bool(zero))
        steps.append(retarget)
        if absorbs:
            steps.append(self._absorber(steps, retarget))
        return self._costed(config, proved, retarget, steps)

    def _check(self, config: Any) -> None:
        _refuse_if(self.examination.anatomy.why_not())
        for condition in self.mapping.conditions:
            reason = condition(config, self.examination, self.checkpoint)
            _refuse_if(reason and reason.replace("{target}", self.mapping.target.family))
        if self.mapping.target.rotary:
            _refuse_if(why_not_rotary(config, head_dim_of(config)))
        for site in stream_sites(self.examination.anatomy):
            if site.norm.bias_name and site.role != "final":
                _refuse_if(why_not_shift(site))
        for stream in self.examination.anatomy.convertible():
            tables = {writer.module for writer in stream.writers if writer.shared}
            doors = [door for door in stream.online if door.module not in tables]
            _refuse_if(doors[0].reason if doors else None)
            if stream.raw_readers:
                _refuse_if(f"{stream.raw_readers[0].reader.module} reads the stream with its mean")

    def _clip_free(self, config: Any) -> Examination:
        """The examination whose twin clips nothing, if the real weights provably never clip."""
        key = self.mapping.clip
        limit = value_at(config, key) if key else None
        if key is None or limit is None:
            return self.examination
        if not self.reads_weights:
            _refuse_if(
                f"{key} is {limit:g}, and only the weights tell whether it is ever reached "
                "(convert --target native --dry-run reads them)"
            )
        _refuse_if(why_clipped(self.checkpoint, self.examination, key, float(limit)))
        return unclipped(self.examination, key)

    def _zero_bias(self, parameter: str | None) -> str | None:
        """The final norm's β, by name, if it is zero on disk."""
        if not parameter:
            return None
        held = self.examination.names.on_disk(parameter)
        return parameter if all(is_all_zero(self.checkpoint[name]) for name, _ in held) else None

    def _absorbs(self, final: NormSite) -> bool:
        """Whether the final norm's β, which is not zero, needs an absorber."""
        _refuse_if(why_not_shift(final))
        if self.mapping.target.head_bias or all(reader.bias for reader in final.readers):
            return False
        if self.head != "ForCausalLM":
            _refuse_if("the final norm's β has no place: the target's head has no bias")
        return True

    def _absorber(self, steps: list[Step], retarget: Retarget) -> Step:
        source = self.checkpoint
        for step in steps:
            source, _ = step(source)
        gated = self.mapping.target.gated
        config = retarget.model_class.config_class.from_dict(dict(source.config))
        dtypes = {tensor.dtype for tensor in self.checkpoint.values()}
        dtype = self.dtype or next((name for name in ("F16", "BF16") if name in dtypes), "F32")
        _refuse_if(absorber.why_not_absorber(config, gated=gated, dtype=dtype))
        return partial(absorber.absorb, gated=gated)

    def _costed(
        self, config: Any, proved: Examination, retarget: Retarget, steps: list[Step]
    ) -> NativePlan:
        result = self.checkpoint
        for step in steps:
            result, _ = step(result)
        before, after = (sum(t.numel for t in c.values()) for c in (self.checkpoint, result))
        made = retarget.model_class.config_class.from_dict(dict(result.config))
        absorbs = bool(retarget.spare)
        width = BITS[self.dtype] // 8 if self.dtype else None
        longest = getattr(config, "max_position_embeddings", None)
        return NativePlan(
            self.mapping, proved, tuple(steps), retarget.model_class, made,
            parameters_added=after - before,
            parameters=after,
            bytes=width * after if width else result.nbytes,
            context=(longest, context_of(self.mapping, config) if longest else None),
            engines=tuple(expected_engines(made)),
            absorbs=absorbs,
            bound=absorber.BOUND if absorbs else EXACT_BOUND,
        )  # fmt: skip


def _is_head(name: str) -> bool:
    """Whether what follows the family's name is a head (Olmo2ForCausalLM is no Olmo)."""
    return name == "Model" or name.startswith("For")


def _refuse_if(reason: str | None) -> None:
    if reason:
        raise UnsupportedModelError(reason, "normsurgery inspect MODEL   # what does apply")


def _final_site(anatomy: Anatomy) -> NormSite:
    sites = [site for site in stream_sites(anatomy) if site.role == "final"]
    if len(sites) != 1:
        _refuse_if(f"it has {len(sites)} final norms")
    return sites[0]


def _shared(anatomy: Anatomy) -> bool:
    return any(writer.shared for stream in anatomy.convertible() for writer in stream.writers)


def _centre(source: Checkpoint, *, examination: Examination) -> tuple[Checkpoint, Receipt]:
    """Centre every writer, a table that a bare norm's head shares too: E P x̂ = E x̂."""
    streams = tuple(
        dataclasses.replace(
            stream,
            writers=tuple(dataclasses.replace(writer, shared="") for writer in stream.writers),
        )
        for stream in examination.anatomy.streams
    )
    anatomy = dataclasses.replace(examination.anatomy, streams=streams)
    result, receipt = centre_writers(source, anatomy, examination.names)
    return result, dataclasses.replace(receipt, norms={})  # the retargeting says what they become
