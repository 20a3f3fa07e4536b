"""The twin: a tiny random model of the checkpoint's own class and flags, in float64.

A surgery is discovered and proved on the twin, then applied to the files on disk.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.classes import named_class, untrusted_code
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.inputs import example_candidates
from normsurgery.anatomy.norms import noted_shapes
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.shrink import shrink
from normsurgery.errors import CheckpointError, UnsupportedModelError

TWIN_BATCH, TWIN_LENGTH = 2, 11
FELT_WINDOW = 5  # shorter than the twin's rows, so that an attention window can be felt

Examples = Callable[[Any, int, int, int], Iterator[dict[str, Tensor]]]
"""Inputs that a twin may take, likely first, of its model, a batch, a length and a seed."""


@dataclass(frozen=True)
class Twin:
    """A tiny model (float64, eval, every parameter random) with inputs for one forward.

    inputs: keyword arguments of its forward.
    shapes: leaf module → shape of the input that it took, for the modules that may be norms.
    """

    model: Any
    inputs: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]


def load_config(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers configuration of a checkpoint directory.

    Raises UnsupportedModelError where transformers does not know the model type (or it is remote
    code and that was not allowed), CheckpointError where it refuses the values.
    """
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises ValueError, TypeError, StrictDataclassError …
        text = " ".join(str(error).split())
        reason = text[:200]
        if "trust_remote_code" in text:
            raise untrusted_code(Path(directory), "this model type") from error
        if (own := _configuration_of_class(directory)) is not None:
            return own
        if "model type" in reason or "model_type" in reason:
            raise UnsupportedModelError(
                f"transformers does not know this model type: {reason}",
                "upgrade transformers, or pass --trust-remote-code if the checkpoint has its code",
            ) from error
        raise CheckpointError(
            f"config.json: {reason}", "compare it with the configuration that the model ships with"
        ) from error


def _configuration_of_class(directory: Path) -> Any | None:
    """The configuration of a part that AutoConfig has no name for, by the class that it names."""
    import transformers

    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    named = getattr(transformers, str((written.get("architectures") or [None])[0]), None)
    config_class = getattr(named, "config_class", None)
    if config_class is None or config_class.model_type != written.get("model_type", ""):
        return None
    with quiet():
        return config_class.from_dict(written)


def model_class_of(directory: Path, config: Any, *, trust_remote_code: bool = False) -> type:
    """The class that config.json names: in transformers, in the checkpoint's code, or AutoModel's.

    Raises UnsupportedModelError where no class can be found.
    """
    asked = {key: getattr(config, key, None) for key in ("architectures", "auto_map")}
    named = named_class(directory, asked, trust_remote_code=trust_remote_code)
    if named is not None:
        return named
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        mapped = MODEL_MAPPING[type(config)]
    except KeyError:
        raise UnsupportedModelError(
            f"transformers has no model class for {config.model_type}",
            "upgrade transformers, or pass --trust-remote-code if the checkpoint has its code",
        ) from None
    return mapped[0] if isinstance(mapped, tuple) else mapped  # type: ignore[no-any-return]


def build_twin(
    model_class: type,
    config: Any,
    *,
    seed: int = 0,
    depth: int | None = None,
    window: int | None = None,
    examples: Examples | None = None,
) -> Twin:
    """Build the twin of `config`. depth: blocks to keep of each stack; None keeps all. window: what
    attention windows are capped at (`FELT_WINDOW`); None keeps them. examples: where its inputs
    come from; None makes them up from the configuration.

    Raises UnsupportedModelError where the class cannot be built from the shrunken config.
    """
    tiny = shrink(config.to_dict(), depth=depth, window=window)
    try:
        with quiet():
            tiny_config = type(config).from_dict(copy.deepcopy(tiny))
            _run_eagerly(tiny_config)
            model: Any = _construct(model_class, tiny_config)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UnsupportedModelError(
            f"no tiny twin of {model_class.__name__} can be built: {reason}",
            "please report the model id: the twin is how the surgery is found and proved",
        ) from error
    model = model.double().eval()
    randomize(model, seed=seed)
    inputs, shapes = _trial(model, seed, examples or _made_up)
    return Twin(model, inputs, shapes)


def rebuilt_twin(twin: Twin, model_class: type, values: Mapping[str, Any]) -> Twin:
    """The twin with other flags in its configuration, and the same weights and inputs.

    values: the whole configuration. Raises whatever its class and the model's raise.
    """
    with quiet():
        config = type(twin.model.config).from_dict(copy.deepcopy(dict(values)))
        _run_eagerly(config)
        model: Any = _construct(model_class, config)
    model = model.double().eval()
    model.load_state_dict(twin.model.state_dict())
    return Twin(model, twin.inputs, twin.shapes)


def _run_eagerly(config: Any) -> None:
    """Plain attention and experts: traceable on every family, and they know float64."""
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"


def _made_up(model: Any, batch: int, length: int, seed: int) -> Iterator[dict[str, Tensor]]:
    return example_candidates(model, batch=batch, length=length, seed=seed)


def _trial(
    model: Any, seed: int, examples: Examples
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Inputs that the twin runs on: two rows, or one (classifiers without a pad token).

    Also what shapes its leaf modules then saw.

    Raises UnsupportedModelError where the twin's forward fails on all that were made up.
    """
    reason = ""
    for batch in (TWIN_BATCH, 1):
        for inputs in examples(model, batch, TWIN_LENGTH, seed):
            try:
                with noted_shapes(model) as shapes, torch.no_grad(), Float64():
                    model(**inputs)
                return inputs, shapes
            except Exception as error:  # whatever the model's own code raises
                reason = reason or " ".join(str(error).split())[:160]
    raise UnsupportedModelError(
        f"the twin of {type(model).__name__} does not run on made-up inputs: {reason}",
        "please report the model id: the surgery is found and proved on the twin",
    )


def meta_model(model_class: type, config: Any) -> Any:
    """The model at full size without storage: its parameters' names and shapes."""
    try:
        with quiet(), torch.device("meta"):
            return _construct(model_class, copy.deepcopy(config))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"config.json does not describe a {model_class.__name__}: {reason}",
            "compare it with the configuration that the model ships with",
        ) from error


def _construct(model_class: Any, config: Any) -> Any:
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = model_class(config)
    model.tie_weights()
    return model


def randomize(model: nn.Module, *, seed: int) -> None:
    """Give every parameter and running statistic a random value, none of them special.

    Matrices: zero-mean noise plus an offset a row and a column, so that no mean is zero by chance.
    Vectors: gains in [0.5, 1.5], biases in ±0.5; nothing near zero where a proof divides by it.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        noise = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        return noise * (high - low) + low

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            if parameter.dim() >= 2:
                fan_in = parameter.numel() / parameter.shape[0]
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                offset = uniform(parameter[:1], -0.3, 0.3) + uniform(parameter[..., :1], -0.3, 0.3)
                parameter.copy_((noise + offset) * (0.8 / fan_in**0.5))
            elif name.endswith(("bias", "beta")):
                parameter.copy_(uniform(parameter, -0.5, 0.5))
            else:
                parameter.copy_(uniform(parameter, 0.5, 1.5))
        _randomize_batch_norms(model, uniform)


def _randomize_batch_norms(model: nn.Module, uniform: Callable[..., Tensor]) -> None:
    """Statistics, and γ of either sign, as training leaves it; a frozen norm's γ is a buffer."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(uniform(buffer, -0.5, 0.5))
        elif name.endswith("running_var"):
            buffer.copy_(uniform(buffer, 0.5, 1.5))
    for module in model.modules():
        if hasattr(module, "running_var"):
            _randomize_affine(module, uniform)


def _randomize_affine(module: nn.Module, uniform: Callable[..., Tensor]) -> None:
    weight, bias = (getattr(module, key, None) for key in ("weight", "bias"))
    if isinstance(weight, Tensor):
        negative = uniform(weight, 0, 1) < 0.25
        weight.copy_(uniform(weight, 0.5, 1.5).masked_fill(negative, -0.75))
    if isinstance(bias, Tensor):
        bias.copy_(uniform(bias, -0.5, 0.5))


def relative_error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest |ours − theirs| / std(theirs) over all outputs, and the output that has it.

    Entries that code fills with the largest number or an infinity must be the same in both.
    """
    worst, where = 0.0, ""
    for name, reference in theirs.items():
        told = reference.abs() < torch.finfo(reference.dtype).max / 2
        if not reference.numel():
            continue
        if not torch.equal(ours[name][~told], reference[~told]):
            return float("inf"), name
        if not told.any():
            continue
        known = reference[told].double()
        spread = float(known.std(correction=0)) or 1.0
        error = float((ours[name][told].double() - known).abs().max()) / spread
        if not error <= worst:  # NaN counts as the worst
            worst, where = error, name
    return worst, where
