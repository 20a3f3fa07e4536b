"""A LayerNorm model, converted to a native class, gives the same tokens in llama.cpp."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import normsurgery
from normsurgery.anatomy.runtime import quiet
from tests.engines.tiny_llama import TOKENIZER

REASON = 'llama.cpp is not installed: pip install "normsurgery[engines]"'
pytest.importorskip("gguf", reason=REASON)
pytest.importorskip("xllamacpp", reason=REASON)

from tests.engines.llama_cpp import Transformers, greedy  # noqa: E402

pytestmark = pytest.mark.slow

PROMPT = [70, 300, 400, 512, 33]
TOKENS = 48
MARGIN = 1e-3
COMMON = {
    "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo": ("Olmo", {}),
    "olmo, tied": ("Olmo", {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    "stablelm, partial rotary": ("StableLm", {"use_qkv_bias": True, "rope_parameters": HALF}),
}


def build(directory: Path, name: str, changes: dict[str, Any]) -> None:
    """A random model of 3 blocks with random γ, β and biases, and the project's tokenizer."""
    import transformers

    torch.manual_seed(2)
    config = getattr(transformers, f"{name}Config")(**(COMMON | changes))
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    with quiet():
        model.save_pretrained(directory)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / file, directory / file)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_converted_model_says_the_same(tmp_path: Path, family: str) -> None:
    source, output = tmp_path / "source", tmp_path / "native"
    build(source, *FAMILIES[family])
    normsurgery.convert(str(source), output, target="native")
    reference = Transformers(source)
    expected = reference.greedy(PROMPT, TOKENS)
    assert min(reference.margins(PROMPT, expected)) > MARGIN
    assert len(set(expected)) > TOKENS // 4, "a text that repeats itself tests little"
    assert greedy(output, PROMPT, TOKENS) == expected
