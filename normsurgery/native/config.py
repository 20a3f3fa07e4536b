"""The target's configuration, made of the source's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import quiet
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.native.conditions import value_at
from normsurgery.native.mapping import NativeMapping
from normsurgery.native.rotary import rope_parameters

# What says which class and code a checkpoint is for: never carried over.
_IDENTITY = {"model_type", "architectures", "auto_map", "transformers_version", "_name_or_path"}
# Older spellings, which the source's class reads into `rope_parameters` and `dtype`.
_OLDER = {
    "rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_emb_base",
    "torch_dtype",
}  # fmt: skip


@dataclass(frozen=True)
class TargetConfig:
    """config: of the target's class. dropped: source keys that mean nothing there."""

    config: Any
    dropped: dict[str, Any]

    def to_json(self, architecture: str, source: dict[str, Any]) -> dict[str, Any]:
        """config.json: the target's own keys, and the source's that neither class knows.

        source: config.json as it was. What every configuration has by default is not repeated.
        """
        import transformers

        common = transformers.PreTrainedConfig().to_dict()
        dtype = next((source[key] for key in ("dtype", "torch_dtype") if key in source), None)
        values = {
            key: value
            for key, value in self.config.to_dict().items()
            if key not in _IDENTITY and (key in source or value != common.get(key, ...))
        }
        found = {"architectures": [architecture], "model_type": self.config.model_type, **values}
        return found if dtype is None else {**found, "dtype": dtype}


def filled(examination: Examination, source: Checkpoint) -> Any:
    """The source's configuration with its class's defaults: of this checkpoint, not of the twin."""
    with quiet():
        return type(examination.config).from_dict(dict(source.config))


def target_config(
    mapping: NativeMapping, examination: Examination, source: Checkpoint, flags: Collection[str]
) -> TargetConfig:
    """Carry every key that both classes have; the mapping says the others.

    flags: keys of the target to be turned on. Raises UnsupportedModelError where the target's
    class refuses the values.
    """
    import transformers

    config = filled(examination, source)
    config_class = getattr(transformers, f"{mapping.target.family}Config")
    with quiet():
        known = set(config_class().to_dict()) - _IDENTITY
        own = set(type(config)().to_dict())
    values = {key: getattr(config, key) for key in known if hasattr(config, key)}
    values |= {key: value_at(config, path) for key, path in mapping.keys.items()}
    if "head_dim" in known:
        values["head_dim"] = head_dim_of(config)
    if mapping.target.rotary:
        values["rope_parameters"] = rope_parameters(config, head_dim_of(config))
    if mapping.window:
        values["max_position_embeddings"] = context_of(mapping, config)
    values[mapping.target.eps] = _one_eps(examination)
    values |= mapping.target.values
    values |= {key: v(config) if callable(v) else v for key, v in mapping.values.items()}
    values |= dict.fromkeys(mapping.target.flags, False) | dict.fromkeys(flags, True)
    foreign = own | known | _IDENTITY | _OLDER
    unknown = {key: value for key, value in source.config.items() if key not in foreign}
    try:
        with quiet():
            made = config_class(**unknown | values)
    except Exception as error:  # strict configurations raise their own errors
        reason = " ".join(str(error).split())[:160]
        raise UnsupportedModelError(
            f"{mapping.target.family} refuses the configuration: {reason}",
            "normsurgery inspect MODEL   # what does apply",
        ) from error
    used = known | {path.split(".")[0] for path in mapping.keys.values()} | set(unknown)
    used |= _IDENTITY | _OLDER
    dropped = {key: value for key, value in source.config.items() if key not in used}
    return TargetConfig(made, dropped)


def head_dim_of(config: Any) -> int:
    """Channels of one attention head."""
    width: int = config.hidden_size // config.num_attention_heads
    return getattr(config, "head_dim", None) or width


def context_of(mapping: NativeMapping, config: Any) -> int:
    """The longest input that the target answers as the source does."""
    longest: int = config.max_position_embeddings
    window = value_at(config, mapping.window) if mapping.window else None
    return min(longest, window) if window else longest


def _one_eps(examination: Examination) -> float:
    """The ε that all norms of the stream share; a configuration has room for one."""
    anatomy = examination.anatomy
    found = {
        anatomy.sites[name].norm.eps
        for stream in anatomy.convertible()
        for name in stream.sites
    }  # fmt: skip
    if len(found) != 1:
        raise UnsupportedModelError(
            f"its norms have several ε ({', '.join(map(str, sorted(found)))}), and the target one",
            "normsurgery inspect MODEL   # what does apply",
        )
    return found.pop()
