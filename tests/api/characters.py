"""Tiny random models with a tokenizer of single characters, so that any text can be read."""

from __future__ import annotations

import string
from pathlib import Path
from shutil import copytree

from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
CHARACTERS = string.printable[:95]


_QUIET = 0.3


def _calm(file: Path) -> None:
    """Smaller linears: without norms a random model's stream would grow block by block."""
    values = load_file(file)
    tables = ("wte", "wpe", "embed", "lm_head")
    calm = {
        name: value if value.dim() < 2 or any(t in name for t in tables) else value * _QUIET
        for name, value in values.items()
    }
    save_file(calm, file, metadata={"format": "pt"})


def with_characters(model: Path, directory: Path) -> Path:
    """A copy of a tiny model (vocabulary of 99) with such a tokenizer beside it."""
    copytree(model, directory)
    _calm(directory / "model.safetensors")
    words = {word: i for i, word in enumerate([*SPECIALS, *CHARACTERS])}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    bare.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    tokenizer.save_pretrained(directory)
    return directory
