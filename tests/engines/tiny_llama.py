"""A small Llama or Arcee with random weights, saved with a byte-level BPE tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import ArceeConfig, ArceeForCausalLM, LlamaConfig, LlamaForCausalLM

from normsurgery.anatomy.runtime import quiet

TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "tiny-gpt2-6x96"


def build_llama(directory: Path, *, arcee: bool = False, **changes: Any) -> None:
    """Save a model of 3 blocks in float32; wide logits, so that its choices are clear ones.

    arcee: relu² between two linears, no gate. changes: of the config, over grouped heads, an untied
    head and no biases.
    """
    torch.manual_seed(0)
    options = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model: Any
    if arcee:
        model = ArceeForCausalLM(ArceeConfig(**(options | changes)))
    else:
        model = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                parameter.normal_(std=0.3)
    with quiet():
        model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, directory / name)
