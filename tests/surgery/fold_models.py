"""Tiny models for the folds, and one way to fold their files and run the result in stock code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.inputs import example_inputs, working_candidate
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import Proof, load_float64
from normsurgery.anatomy.twin import relative_error
from normsurgery.api.folding.composition import Composition
from normsurgery.api.folding.planning import plan_folds
from normsurgery.checkpoint import Checkpoint, open_checkpoint, write_weights
from normsurgery.surgery.folds import FoldOptions, FoldPlan
from tests.families import FAMILIES, build_spec

Spec = tuple[str, str, dict[str, Any]]
TEXT: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 100, "vocab_size": 99,
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 100, "image_size": 32, "patch_size": 8,
}  # fmt: skip
GROUPED: dict[str, Any] = {**TEXT, "num_key_value_heads": 2}
MUP = {
    "embedding_multiplier": 6.0, "logits_scaling": 3.0, "residual_multiplier": 0.3,
    "attention_multiplier": 0.2,
}  # fmt: skip
MODELS: dict[str, Spec] = {
    **FAMILIES,
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    # heads that a twin has fewer of
    "eight_heads": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**TEXT, "num_attention_heads": 8}),
    "eight_shared": (
        "Starcoder2ForCausalLM", "Starcoder2Config",
        {**TEXT, "num_attention_heads": 8, "num_key_value_heads": 2},
    ),
    "llama_tied": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**GROUPED, "head_dim": 12}),
    "gemma2": (
        "Gemma2ForCausalLM", "Gemma2Config",
        {**GROUPED, "head_dim": 12, "query_pre_attn_scalar": 24},
    ),
    "gemma3": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        {**GROUPED, "head_dim": 12, "query_pre_attn_scalar": 24},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    "granite": ("GraniteForCausalLM", "GraniteConfig", {**GROUPED, **MUP}),
    "granite_tied": (
        "GraniteForCausalLM", "GraniteConfig", {**GROUPED, **MUP, "tie_word_embeddings": True},
    ),
    "cohere": ("CohereForCausalLM", "CohereConfig", {**GROUPED, "logit_scale": 0.0625}),
    "falcon_h1": (
        "FalconH1ForCausalLM", "FalconH1Config",
        {
            **GROUPED, "num_hidden_layers": 1, "embedding_multiplier": 2.0,
            "lm_head_multiplier": 0.5, "attention_in_multiplier": 0.7,
            "attention_out_multiplier": 0.8,
            "key_multiplier": 0.9, "mlp_multipliers": [0.5, 0.6], "ssm_in_multiplier": 1.3,
            "ssm_out_multiplier": 0.4, "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 2.0],
            "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
    "deepseek": (
        "DeepseekV3ForCausalLM", "DeepseekV3Config",
        {
            **TEXT, "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 24,
            "first_k_dense_replace": 1, "q_lora_rank": 24, "kv_lora_rank": 16,
            "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 12,
            "routed_scaling_factor": 2.5,
        },
    ),
    "qwen2": (
        "Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "max_window_layers": 2},
    ),
    "gpt_oss": (
        "GptOssForCausalLM", "GptOssConfig",
        {**GROUPED, "head_dim": 12, "num_local_experts": 4, "attention_bias": True},
    ),
    "gpt_bigcode": (
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig",
        {"n_layer": 2, "n_embd": 48, "n_head": 4, "vocab_size": 99},
    ),
    "beit": ("BeitForImageClassification", "BeitConfig", IMAGE),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", IMAGE),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", IMAGE),
    "pixtral": (
        "PixtralVisionModel", "PixtralVisionConfig",
        {**IMAGE, "head_dim": 12, "num_channels": 3},
    ),
    "convnext": (
        "ConvNextForImageClassification", "ConvNextConfig",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": 32},
    ),
    "resnet": (
        "ResNetForImageClassification", "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
    "encodec": (
        "EncodecModel", "EncodecConfig",
        {
            "num_filters": 8, "hidden_size": 16, "codebook_size": 32, "codebook_dim": 16,
            "upsampling_ratios": [4, 2],
        },
    ),
    "bit": (
        "BitForImageClassification", "BitConfig",
        {
            "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8,
            "image_size": 64,
        },
    ),
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "do_normalize": True, "do_rescale": True,
    "rescale_factor": 1 / 255, "image_mean": [0.48, 0.45, 0.4], "image_std": [0.22, 0.23, 0.25],
    "do_resize": True, "size": {"height": 32, "width": 32},
}  # fmt: skip


def built(name: str, directory: Path, *, dtype: str = "float64") -> Path:
    """A tiny random model's directory, its widths other than a twin's."""
    build_spec(MODELS[name], directory, dtype=dtype)
    return directory


def with_processor(directory: Path, **changes: Any) -> Path:
    """The directory with an image processor's file beside the model."""
    text = json.dumps({**PROCESSOR, **changes})
    (directory / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return directory


def composed(directory: Path, *what: str) -> tuple[Checkpoint, Composition]:
    """The source and its folds, planned."""
    checkpoint = open_checkpoint(directory)
    examination = examine(checkpoint)
    plans, _ = plan_folds(checkpoint, examination, FoldOptions(what=what))
    return checkpoint, Composition(examination, (), tuple(plans))


def planned(directory: Path, what: str) -> FoldPlan | str:
    """The plan of one fold, or why it does not apply."""
    from normsurgery.api.folding.planning import plan_fold

    checkpoint = open_checkpoint(directory)
    return plan_fold(what, checkpoint, examine(checkpoint), FoldOptions(what=(what,)))


def fold_files(directory: Path, out: Path, *what: str) -> tuple[Composition, Proof, float]:
    """Fold a directory's files; the folds, their proof, and the error of the files in float64."""
    checkpoint, composition = composed(directory, *what)
    proof = composition.prove()
    result, _ = composition.operate(checkpoint)
    out.mkdir()
    write_weights(result, out, hashes=False)
    return composition, proof, error_of(composition, directory, out)


def error_of(composition: Composition, directory: Path, out: Path) -> float:
    """The largest difference of any output over its std, source and result in stock code."""
    model_class = composition.examination.model_class
    source, result = (load_float64(model_class, one) for one in (directory, out))
    inputs = _inputs(source)
    theirs = run_outputs(source, inputs)
    ours = run_outputs(result, composition.inputs(inputs))
    assert set(ours) == set(theirs)
    return relative_error(ours, theirs)[0]


def _inputs(model: Any) -> dict[str, torch.Tensor]:
    """Inputs that the model runs on; of another length than a twin's."""
    run = partial(run_outputs, model)
    candidate = working_candidate(model, run, length=9, seed=3)
    return example_inputs(model, batch=2, length=9, seed=3, candidate=candidate)


def state(directory: Path, examination: Examination) -> Mapping[str, torch.Tensor]:
    """The parameters by their names in memory."""
    model: Any = examination.model_class
    assert issubclass(model, transformers.PreTrainedModel)
    return load_float64(model, directory).state_dict()  # type: ignore[no-any-return]
