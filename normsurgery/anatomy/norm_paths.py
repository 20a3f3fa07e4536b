"""From norm sites to paths: what is removed at one time.

An attention site's norm goes in two steps, first on the way to the scores (q, k) and then on the
way to the values, so its readers, or the channels of a fused one, are told apart. A block whose
attention and MLP read one norm has three paths at one site.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normsurgery.anatomy.attention_channels import attention_channels
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.inputs import example_inputs, working_candidate
from normsurgery.anatomy.model import Anatomy, NormSite, Reader, Stream
from normsurgery.anatomy.reader_doors import open_doors
from normsurgery.anatomy.sites import place
from normsurgery.errors import UnsupportedModelError, UsageError

PathKind = Literal["mlp", "qk", "v", "final", "inner"]
SITES = ("mlp", "attention", "final", "inner")
DEFAULT_SITES = ("mlp", "attention", "final")
_KINDS: tuple[PathKind, ...] = ("mlp", "qk", "v")  # in the order in which a site's paths go
_LENGTH = 8  # tokens of the example that tells q and k from v
_POST_LN = "post-LN"


@dataclass(frozen=True)
class ReaderPart:
    """A reader, or some of its output channels (ascending; None: all)."""

    reader: Reader
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class NormPath:
    """A way through a norm that is removed at one time.

    name: the site's, with ":mlp", ":qk" or ":v" where the site has several paths. block: number of
    the repeated layer, None outside of them. parts: the readers on this path; () where the norm
    stays in its place as an affine map. shared: how many paths the site has. The site is the
    twin's: its name, ε and offset are the model's own, its width is not.
    """

    name: str
    site: NormSite
    kind: PathKind
    block: int | None
    parts: tuple[ReaderPart, ...]
    shared: int = 1

    @property
    def whole(self) -> bool:
        """Whether the site has this one path: the replacement stands at the norm itself."""
        return self.shared == 1


def read_paths(
    examination: Examination,
    model: nn.Module,
    *,
    sites: Collection[str] = DEFAULT_SITES,
) -> tuple[NormPath, ...]:
    """The paths of a model in order of execution.

    model: of the examined class with its weights, right after loading, or `examination.twin.model`
    (then with the twin's channels). sites: words of `SITES`; a site with attention and MLP in one
    gives only the paths asked for. Raises UnsupportedModelError where the anatomy forbids it, and
    UsageError for a word that is none.
    """
    wrong = sorted(set(sites) - set(SITES))
    if wrong or not sites:
        said = f"--sites {wrong[0]} is none of {', '.join(SITES)}" if wrong else "no site is asked"
        raise UsageError(said, f"--sites {','.join(DEFAULT_SITES)}")
    anatomy = examination.anatomy
    _check(anatomy, _text_sites(examination))
    left = left_norms(examination, sites=SITES)
    chosen = [site for name, site in anatomy.sites.items() if name not in left]
    found = [path for path in _paths(chosen, examination, model) if _asked(path, sites)]
    if not found:
        raise UnsupportedModelError(
            f"no norm of the kinds {', '.join(sorted(sites))} can be removed", _why_none(left)
        )
    return tuple(found)


def left_norms(
    examination: Examination, *, sites: Collection[str] = DEFAULT_SITES
) -> dict[str, str]:
    """Norms that are no part of any path of these sites, by name, and why."""
    anatomy = examination.anatomy
    text = _text_sites(examination)
    left: dict[str, str] = {}
    for name, site in anatomy.sites.items():
        reason = _why_left(site, name in text, sites)
        if reason:
            left[name] = reason
    return left


def end_token(model: Any) -> int | None:
    """The id that ends a text, by the model's generation settings or its configuration."""
    config = getattr(model, "config", None)
    find = getattr(config, "get_text_config", None)
    text = config if find is None else find()
    for holder in (getattr(model, "generation_config", None), text, config):
        value = getattr(holder, "eos_token_id", None)
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        if isinstance(value, int) and value >= 0:
            return value
    return None


# -- which sites --------------------------------------------------------------------------------


def _check(anatomy: Anatomy, text: Collection[str]) -> None:
    kinds = {site.norm.kind for site in anatomy.sites.values()}
    if not kinds:
        raise UnsupportedModelError("it has no norm", "normsurgery inspect MODEL")
    if kinds == {"BatchNorm"}:
        raise UnsupportedModelError(
            "its norms are BatchNorms, which divide by a constant already when they run",
            "normsurgery inspect MODEL   # what does apply",
        )
    streams = [stream for stream in anatomy.streams if set(stream.sites) & set(text)]
    reasons = [reason for stream in streams for reason in stream.why_not]
    post = next((reason for reason in reasons if _POST_LN in reason), None)
    if post is not None:
        raise UnsupportedModelError(
            f"{post.partition(', so ')[0]}, and nothing else bounds the stream once it is gone",
            "normsurgery inspect MODEL   # what does apply",
        )


def _text_sites(examination: Examination) -> set[str]:
    """Sites of the streams that count: where there is a language head, those of its own blocks."""
    anatomy = examination.anatomy
    streams = [stream for stream in anatomy.streams if stream.sites]
    order = {name: number for number, name in enumerate(anatomy.sites)}
    if _output_embeddings(examination.twin.model) is not None and len(streams) > 1:
        last = max(streams, key=lambda stream: max(order[name] for name in stream.sites))
        alike = set(map(place, last.sites))
        streams = [
            stream
            for stream in streams
            if stream.part == last.part or alike & set(map(place, stream.sites))
        ]
    return {name for stream in streams for name in stream.sites} | _inside(anatomy, streams)


def _inside(anatomy: Anatomy, streams: Collection[Stream]) -> set[str]:
    """Inner norms of the blocks that these streams pass."""
    parts = {stream.part for stream in streams}
    return {
        name
        for name, site in anatomy.sites.items()
        if site.role == "inner"
        and any(f"{name}.".startswith(f"{part}.") or not part for part in parts)
    }


def _output_embeddings(model: Any) -> Any:
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def _why_left(site: NormSite, counts: bool, sites: Collection[str]) -> str:
    if site.role == "stem":
        return "it stands before the blocks"
    if site.role == "head":
        return "it is part of the head"
    if site.norm.kind == "BatchNorm":
        return "a BatchNorm divides by a constant already when it runs"
    if site.norm.axis != -1:
        return "it normalizes an axis that is not the last"
    if not counts:
        return "it is part of another tower than the text's"
    if site.role == "inner" and "inner" not in sites:
        return "it does not read the residual stream: q/k norms, latents, norms after a sublayer"
    return ""


def _why_none(left: Mapping[str, str]) -> str:
    if not left:
        return "ask for other --sites"
    name, reason = next(iter(left.items()))
    return f"{name} is left: {reason}"


def _asked(path: NormPath, sites: Collection[str]) -> bool:
    return {"qk": "attention", "v": "attention"}.get(path.kind, path.kind) in sites


# -- paths of a site ------------------------------------------------------------------------------


def _paths(chosen: list[NormSite], examination: Examination, model: nn.Module) -> list[NormPath]:
    inputs = _inputs(examination, model)
    streams = [site for site in chosen if site.role not in ("inner", "final")]
    doors = open_doors(model, streams, inputs)
    modules = dict.fromkeys(reader.module for site in streams for reader in site.readers)
    present = [name for name in modules if _is_module(model, name)]
    channels = attention_channels(model, present, inputs)
    found: list[NormPath] = []
    for site in chosen:
        found += _paths_of(site, channels, splits=site.name in doors)
    return found


def _paths_of(site: NormSite, channels: Mapping[str, Tensor], *, splits: bool) -> list[NormPath]:
    block = _block_of(site.name)
    whole = () if site.unfoldable else tuple(ReaderPart(reader) for reader in site.readers)
    if site.role == "inner":
        return [NormPath(site.name, site, "inner", block, ())]
    if site.role == "final":
        return [NormPath(site.name, site, "final", None, whole)]
    parts = _parts(site, channels)
    if len(parts) == 1 or not splits or site.unfoldable:
        # what reaches scores and values both goes with the values, last
        kind = next(kind for kind in reversed(_KINDS) if kind in parts or kind == "mlp")
        if "attention" in site.role and kind == "mlp":
            kind = "v"
        return [NormPath(site.name, site, kind, block, whole)]
    return [
        NormPath(f"{site.name}:{kind}", site, kind, block, parts[kind], len(parts))
        for kind in _KINDS
        if kind in parts
    ]


def _parts(
    site: NormSite, channels: Mapping[str, Tensor]
) -> dict[PathKind, tuple[ReaderPart, ...]]:
    """The site's readers by kind."""
    attention = _attention_readers(site, channels)
    parts: dict[PathKind, list[ReaderPart]] = {}
    for reader in site.readers:
        felt = channels.get(reader.module)
        if reader not in attention or felt is None:
            parts.setdefault("mlp", []).append(ReaderPart(reader))
        elif bool(felt.all()) or not bool(felt.any()):
            parts.setdefault("qk" if bool(felt.all()) else "v", []).append(ReaderPart(reader))
        else:
            for kind, which in (("qk", felt), ("v", ~felt)):
                indices = tuple(torch.nonzero(which).flatten().tolist())
                parts.setdefault(kind, []).append(ReaderPart(reader, indices))  # type: ignore[arg-type]
    return {kind: tuple(found) for kind, found in parts.items()}


def _attention_readers(site: NormSite, channels: Mapping[str, Tensor]) -> set[Reader]:
    """The readers that are attention's: those in the same module as one that reaches scores."""
    scoring = {
        reader.module.rpartition(".")[0]
        for reader in site.readers
        if reader.module in channels and bool(channels[reader.module].any())
    }
    return {reader for reader in site.readers if reader.module.rpartition(".")[0] in scoring}


def _inputs(examination: Examination, model: nn.Module) -> dict[str, Tensor]:
    if model is examination.twin.model:
        return examination.twin.inputs

    def run(inputs: dict[str, Tensor]) -> None:
        with torch.no_grad():
            model(**inputs)

    candidate = working_candidate(model, run, length=_LENGTH, seed=0)
    return example_inputs(model, batch=2, length=_LENGTH, seed=0, candidate=candidate)


def _is_module(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _block_of(name: str) -> int | None:
    match = re.search(r"\.(\d+)\.", f".{name}.")
    return int(match.group(1)) if match else None
