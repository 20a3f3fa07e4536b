"""Tiny models under the real ids: what the loopback Hub serves while a page is run.

A page may name any model of this table; to name another one, add it here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import AutoModelForImageClassification

from tests.batchnorm_families import BATCH_NORM_FAMILIES
from tests.conftest import TRAINED
from tests.docs.files import picture
from tests.families import FAMILIES, build_spec
from tests.native.families import FAMILIES as NATIVE

Spec = tuple[str, str, dict[str, Any]]
VOCABULARY = 1024  # of the tokenizer that the project ships
_TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 4,
    "vocab_size": VOCABULARY, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_LLAMA: dict[str, Any] = {**_TEXT, "num_key_value_heads": 2}
_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
    "do_normalize": True, "image_mean": [0.5, 0.4, 0.6], "image_std": [0.2, 0.3, 0.25],
    "size": {"height": 32, "width": 32},
}  # fmt: skip
_CARD = "---\nlicense: apache-2.0\n---\n\n# A model\n\nThe card of the source.\n"


def _text(model: str, config: str, values: dict[str, Any], **more: Any) -> Spec:
    return model, config, {**values, **more}


# repository → (model class, configuration class, configuration); text models get a tokenizer,
# vision models an image processor.
SPECS: dict[str, Spec] = {
    "EleutherAI/pythia-70m": _text("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT),
    "EleutherAI/pythia-160m": _text("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT),
    "allenai/OLMo-1B-hf": _text("OlmoForCausalLM", "OlmoConfig", _LLAMA),
    "bigcode/starcoder2-3b": _text("Starcoder2ForCausalLM", "Starcoder2Config", _LLAMA),
    "facebook/opt-125m": (
        "OPTForCausalLM", "OPTConfig",
        {
            "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "ffn_dim": 48,
            "vocab_size": VOCABULARY, "word_embed_proj_dim": 32, "max_position_embeddings": 128,
        },
    ),
    "google-bert/bert-base-uncased": _text("BertForMaskedLM", "BertConfig", _TEXT),
    "meta-llama/Llama-2-7b-hf": _text("LlamaForCausalLM", "LlamaConfig", _LLAMA),
    "meta-llama/Llama-3.1-8B": _text("LlamaForCausalLM", "LlamaConfig", _LLAMA),
    "meta-llama/Llama-3.2-1B": _text(
        "LlamaForCausalLM", "LlamaConfig", _LLAMA, tie_word_embeddings=True
    ),
    "mistralai/Mistral-7B-v0.1": _text("MistralForCausalLM", "MistralConfig", _LLAMA),
    "Qwen/Qwen3-0.6B": _text(
        "Qwen3ForCausalLM", "Qwen3Config", _LLAMA, head_dim=8, tie_word_embeddings=True
    ),
    "ibm-granite/granite-3.1-2b-base": _text(
        "GraniteForCausalLM", "GraniteConfig", _LLAMA,
        embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=8.0,
        attention_multiplier=0.25, tie_word_embeddings=False,
    ),
    "google/gemma-2-2b": _text(
        "Gemma2ForCausalLM", "Gemma2Config", _LLAMA, head_dim=8, query_pre_attn_scalar=16,
    ),
    "google/vit-base-patch16-224": FAMILIES["vit"],
    "facebook/dinov2-base": NATIVE["dinov2"],
    "facebook/vit-msn-base": NATIVE["vit_msn"],
    "openai/clip-vit-base-patch32": FAMILIES["clip"],
    "openai/whisper-tiny": FAMILIES["whisper"],
    "facebook/wav2vec2-large-960h-lv60-self": FAMILIES["wav2vec2"],
    "microsoft/resnet-50": BATCH_NORM_FAMILIES["resnet"],
    "google/mobilenet_v2_1.0_224": BATCH_NORM_FAMILIES["mobilenet_v2"],
    "Intel/dpt-large": BATCH_NORM_FAMILIES["dpt"],
}  # fmt: skip


def _settle(directory: Path) -> None:
    """Give BatchNorms the statistics of noisy pictures: random ones would only get in the way."""
    model = AutoModelForImageClassification.from_pretrained(directory).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    random = torch.Generator().manual_seed(0)
    mean, std = (
        torch.tensor(_PROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std")
    )
    with torch.no_grad():
        for _ in range(4):
            pixels = torch.rand(32, 3, 40, 40, generator=random)
            small = interpolate(pixels, size=(32, 32), mode="bilinear", antialias=True)
            model((small - mean) / std)
    model.save_pretrained(directory)


def _built(name: str) -> Callable[[Path], None]:
    spec = SPECS[name]

    def make(directory: Path) -> None:
        build_spec(spec, directory)
        if spec[2].get("vocab_size") == VOCABULARY:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(TRAINED / file, directory)
        elif "vision" not in name and ("image_size" in spec[2] or "resnet" in name):
            (directory / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR))
        if "resnet" in name:
            _settle(directory)

    return make


def _resnet(directory: Path) -> None:
    """The statistics of its norms are those of the pictures that pages name, as if it knew them."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    build_spec(SPECS["microsoft/resnet-50"], directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR))
    model = AutoModelForImageClassification.from_pretrained(directory).train()
    processor = AutoImageProcessor.from_pretrained(directory)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean over the batches
            module.reset_running_stats()
    with torch.no_grad():
        model(**processor([picture(seed) for seed in range(24)], return_tensors="pt"))
    model.eval().save_pretrained(directory)


def _shipped(directory: Path) -> None:
    shutil.copytree(TRAINED, directory)


# repository → what writes the model into a new directory
MODELS: dict[str, Callable[[Path], None]] = {
    "openai-community/gpt2": _shipped,
    **{name: _built(name) for name in SPECS},
    "microsoft/resnet-50": _resnet,
}


def files_of(name: str, root: Path) -> dict[str, bytes]:
    """The repository's files; the model is made below `root` when it is first asked for."""
    directory = root / name.replace("/", "--")
    if not directory.exists():
        MODELS[name](directory)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    return {"README.md": _CARD.encode(), **files}
