"""Small models' directories with real tokenizers, trained here on a few lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from normsurgery.calibrate.text.sources import load_rows

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "It was the best of times, it was the worst of times.",
    "Call me Ishmael. Some years ago, never mind how long precisely.",
]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('only user and assistant speak here') }}{% endif %}"
    "<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
)
BOS, EOS, PAD = 0, 1, 2
MANY = 10**6  # tokens: more than any text here has
Build = Callable[..., Path]
TALK = [
    {"role": "user", "content": "the quick brown fox"},
    {"role": "assistant", "content": "jumps over the lazy dog"},
]


def save(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def load(model, data, **options):
    return load_rows(model, **{"data": data, "tokens": MANY, "max_length": 16, **options})


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    """Byte-level: any text decodes back to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


@pytest.fixture
def build(bpe: Tokenizer, tmp_path: Path) -> Build:
    """A model's directory: config.json and tokenizer files. bos: a row starts with <s>."""

    def make(
        *, bos: bool = False, eos: bool = True, template: str | None = None, **config: object
    ) -> Path:
        from transformers import PreTrainedTokenizerFast

        own = Tokenizer.from_str(bpe.to_str())
        if bos:
            own.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", BOS)]
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=own, pad_token="<pad>", **({"eos_token": "</s>"} if eos else {})
        )
        tokenizer.chat_template = template
        directory = tmp_path / "model"
        tokenizer.save_pretrained(directory)
        values = {"max_position_embeddings": 64, "vocab_size": 320, **config}
        (directory / "config.json").write_text(json.dumps(values))
        return directory

    return make
