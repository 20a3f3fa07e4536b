"""llama.cpp computes the Llamas and Arcees that are native targets: the same tokens and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from normsurgery.errors import UsageError
from tests.engines import gguf_file
from tests.engines.tiny_llama import build_llama

REASON = 'llama.cpp is not installed: pip install "normsurgery[engines]"'
pytest.importorskip("gguf", reason=REASON)
pytest.importorskip("xllamacpp", reason=REASON)

from tests.engines.llama_cpp import LlamaCpp, Transformers, greedy  # noqa: E402

pytestmark = pytest.mark.slow

PROMPT = [70, 300, 400, 512, 33]
TOKENS = 48
MARGIN = 1e-3  # between the best two logits: far above what float32 leaves uncertain
# Frequencies of positions that a partial rotary is written with: half of them turn, half do not.
PARTIAL = {
    "rope_type": "longrope",
    "rope_theta": 1.0,
    "factor": 1.0,
    "attention_factor": 1.0,
    "original_max_position_embeddings": 512,
    "short_factor": [1.0, 10.0, 100.0, 1000.0] + [1e30] * 4,
    "long_factor": [1.0, 10.0, 100.0, 1000.0] + [1e30] * 4,
}
FORMS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "tied head": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "partial rotary": {"rope_parameters": PARTIAL},
    "Arcee": {"arcee": True},
    "Arcee, partial rotary": {"arcee": True, "rope_parameters": PARTIAL},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_greedy_tokens_are_those_of_transformers(tmp_path: Path, form: str) -> None:
    build_llama(tmp_path, **FORMS[form])
    reference = Transformers(tmp_path)
    expected = reference.greedy(PROMPT, TOKENS)
    assert min(reference.margins(PROMPT, expected)) > MARGIN
    assert len(set(expected)) > TOKENS // 4, "a text that repeats itself tests little"
    assert greedy(tmp_path, PROMPT, TOKENS) == expected


def test_the_loss_of_every_token_is_that_of_transformers(tmp_path: Path) -> None:
    build_llama(tmp_path)
    ids = torch.randint(1024, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = Transformers(tmp_path).losses(ids)
    with LlamaCpp(tmp_path, context=len(ids) + 1) as engine:
        assert engine.losses(ids) == pytest.approx(expected, abs=1e-3)


def test_wrong_rotary_positions_change_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_llama(tmp_path)
    right = greedy(tmp_path, PROMPT, TOKENS)
    monkeypatch.setattr(gguf_file, "_interleaved", lambda values, heads: values)
    assert greedy(tmp_path, PROMPT, TOKENS) != right


def test_text_goes_through_the_files_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    build_llama(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = "“It's 1859,” she wrote;\n\n  it was the best of times."
    with LlamaCpp(tmp_path) as engine:
        assert engine.tokens(prompt) == tokenizer(prompt)["input_ids"]


def test_every_tensor_is_in_the_file(tmp_path: Path) -> None:
    import gguf

    build_llama(tmp_path, attention_bias=True)
    gguf_file.write_gguf(tmp_path, tmp_path / "model.gguf")
    stored = load_file(tmp_path / "model.safetensors")
    written = gguf.GGUFReader(tmp_path / "model.gguf").tensors
    assert len(written) == len(stored)
    assert sum(int(t.n_elements) for t in written) == sum(t.numel() for t in stored.values())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_act": "relu2"}, "relu2"),
        ({"arcee": True, "hidden_act": "silu"}, "silu"),
        ({"arcee": True, "mlp_bias": True}, "biases"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    ],
)
def test_what_the_file_cannot_say_is_refused(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    build_llama(tmp_path, **change)
    with pytest.raises(UsageError, match=word):
        gguf_file.write_gguf(tmp_path, tmp_path / "model.gguf")
