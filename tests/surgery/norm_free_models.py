"""Norm-free exports of tiny models, and what they must compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.inputs import example_inputs
from normsurgery.anatomy.norm_paths import DEFAULT_SITES, NormPath, read_paths
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.runtime import quiet
from normsurgery.api.removal.norm_free import Export, NormFree, plan_norm_free
from normsurgery.checkpoint import Checkpoint, open_checkpoint, write_weights
from normsurgery.train.norms.attach import attach
from normsurgery.train.norms.variance import largest_variance
from tests.families import FAMILIES, build_spec
from tests.surgery.frozen_reference import frozen_norms
from tests.surgery.zoo import ZOO

# name → (family, --sites, other values of its configuration, or "class" for another model class)
MODELS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "gpt2": ("gpt2", DEFAULT_SITES, {}),
    "gpt2_untied": ("gpt2", DEFAULT_SITES, {"tie_word_embeddings": False}),
    "gpt2_mlp": ("gpt2", ("mlp",), {}),
    "gpt_neox": ("gpt_neox", DEFAULT_SITES, {}),
    "gptj": ("gptj", DEFAULT_SITES, {}),
    "opt": ("opt", DEFAULT_SITES, {}),
    "llama": ("llama", DEFAULT_SITES, {}),
    "llama_tied": ("llama", DEFAULT_SITES, {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", DEFAULT_SITES, {}),
    "qwen3_inner": ("qwen3", (*DEFAULT_SITES, "inner"), {}),
    "mixtral": ("mixtral", DEFAULT_SITES, {}),
    "phimoe": ("phimoe", DEFAULT_SITES, {}),
    "gemma2": ("gemma2", DEFAULT_SITES, {}),
    "gemma2_inner": ("gemma2", (*DEFAULT_SITES, "inner"), {}),
    "olmo": ("olmo", DEFAULT_SITES, {}),
    "olmo2": ("olmo2", (*DEFAULT_SITES, "inner"), {}),
    "olmo_base": ("olmo", DEFAULT_SITES, {"class": "OlmoModel"}),  # a norm without γ stays
    "vit": ("vit", DEFAULT_SITES, {}),
}


class Subject(NamedTuple):
    """A tiny model with what an export of it needs. sigma: path → σ̂."""

    checkpoint: Checkpoint
    examination: Any
    model: Any
    paths: tuple[NormPath, ...]
    twin_paths: tuple[NormPath, ...]
    sigma: dict[str, float]

    def plan(self, export: Export, **options: Any) -> NormFree:
        if export == "stock" and "variance" not in options:
            options["variance"] = self.variance()
        return plan_norm_free(
            self.checkpoint, self.examination, self.paths, self.twin_paths, self.sigma,
            export=export, **options,
        )  # fmt: skip

    def variance(self) -> float:
        """The largest that a norm sees where it is frozen."""
        with frozen_norms(self.model, self.paths, self.sigma):
            return largest_variance(self.model, self.paths, [self.inputs()])

    def inputs(self) -> dict[str, Tensor]:
        return example_inputs(self.model, batch=2, length=9, seed=5)

    def expected(self, inputs: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Outputs with the divisors frozen, in float64. inputs: None takes the subject's own."""
        with frozen_norms(self.model, self.paths, self.sigma):
            return run_outputs(self.model, inputs or self.inputs())


def subject(name: str, directory: Path, *, dtype: str = "float64") -> Subject:
    """A tiny model of `MODELS`, saved in `dtype`, in float64; a σ̂ for every path."""
    family, sites, changes = MODELS[name]
    class_name, config, values = FAMILIES.get(family) or ZOO[family]
    values = {**values, **changes}
    spec = (values.pop("class", class_name), config, values)
    model = build_spec(spec, directory, dtype=dtype)
    model = opened(type(model), directory)  # with the buffers that a float64 model has
    checkpoint = open_checkpoint(directory)
    examination = examine(checkpoint)
    paths = read_paths(examination, model, sites=sites)
    twin_paths = read_paths(examination, examination.twin.model, sites=sites)
    sigma = _divisors(model, paths)
    return Subject(checkpoint, examination, model, paths, twin_paths, sigma)


def _divisors(model: Any, paths: tuple[NormPath, ...]) -> dict[str, float]:
    """Twice what each norm divides by, so that no stream runs away; no two alike."""
    removal = attach(model, paths)
    with Float64():
        removal.observe([example_inputs(model, batch=2, length=9, seed=4)])
    seen = removal.sigmas()
    removal.detach()
    return {
        path.name: seen[path.name].ordinary * (2 + 0.03 * number)
        for number, path in enumerate(paths)
    }


def written(result: Checkpoint, directory: Path) -> Path:
    directory.mkdir()
    write_weights(result, directory)
    return directory


def opened(model_class: Any, directory: Path, **options: Any) -> Any:
    """The model in its class, without a missing, unexpected or mismatched key."""
    options = {"dtype": torch.float64, **options}
    with quiet():
        model, report = model_class.from_pretrained(
            directory, output_loading_info=True, attn_implementation="eager",
            experts_implementation="eager", **options,
        )  # fmt: skip
    problems = {key: value for key, value in report.items() if value}
    assert not problems, problems
    return model.eval()
