"""Perplexity of a causal language model before and after a conversion, on the same windows.

Both directories are run in float32 over consecutive windows of one text, cut by the source's
tokenizer, and the losses are added up in float64. Prints both figures to eight digits and whether
they agree to six (relative difference at most 5e-7). Without directories, the GPT-2 that the
project ships is converted first.

    normsurgery convert MODEL -o CONVERTED --target native
    python benchmarks/native_perplexity.py [MODEL CONVERTED] [--text FILE] [--tokens 65536]

Exit code 1 where they do not agree.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy

import normsurgery
from normsurgery.calibrate.text.tokenizer import load_tokenizer
from normsurgery.verify import ModelSource
from normsurgery.verify.load import load_model
from normsurgery.verify.text import read_text, tokenize

SHIPPED = Path(__file__).resolve().parents[1] / "tests" / "data" / "tiny-gpt2-6x96"
SIX_DIGITS = 5e-7
BATCH = 8
CHARACTERS_A_TOKEN = 16  # more than any text has on average; the rest is cut off


def main() -> None:
    parser = argparse.ArgumentParser(description="perplexity before and after a conversion")
    parser.add_argument("directories", type=Path, nargs="*", metavar="SOURCE CONVERTED")
    parser.add_argument("--text", type=Path, help="a text file or JSON lines; has a default")
    parser.add_argument("--tokens", type=int, default=65536, help="at most so many")
    parser.add_argument("--window", type=int, default=256, help="tokens of context, at most")
    arguments = parser.parse_args()
    if len(arguments.directories) not in (0, 2):
        parser.error("give both directories, SOURCE and CONVERTED, or none")
    with tempfile.TemporaryDirectory() as scratch:
        source, converted = arguments.directories or (SHIPPED, Path(scratch, "converted"))
        if not arguments.directories:
            normsurgery.convert(str(source), converted)
        rows = windows(source, arguments.text, arguments.tokens, arguments.window)
        print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32")
        print(f"{sum(map(len, rows)):,} tokens in windows of at most {len(rows[0])}")
        figures = [perplexity(path, rows, Path(scratch)) for path in (source, converted)]
    difference = abs(figures[1] / figures[0] - 1)
    same = difference <= SIX_DIGITS
    print(f"relative difference {difference:.1e}: {'' if same else 'NOT '}the same to six digits")
    sys.exit(0 if same else 1)


def windows(source: Path, text: Path | None, tokens: int, window: int) -> list[list[int]]:
    """Consecutive windows of the text as the source's tokenizer cuts it."""
    config = transformers.AutoConfig.from_pretrained(source).get_text_config()
    window = min(window, config.max_position_embeddings)
    tokenizer = load_tokenizer(source, trust_remote_code=False)
    if tokenizer is None:
        sys.exit(f"{source} has no tokenizer")
    characters = tokens * CHARACTERS_A_TOKEN
    stream = tokenize(
        tokenizer, read_text(text, characters=characters), vocabulary=config.vocab_size
    )
    if isinstance(stream, str):
        sys.exit(f"{source}: {stream}")
    count = math.ceil(min(tokens, len(stream.ids)) / window)
    return list(stream.rows([window] * count))


def perplexity(directory: Path, rows: list[list[int]], scratch: Path) -> float:
    """exp of the mean loss over every token but the first of each window; printed."""
    cpu = torch.device("cpu")
    total, count = 0.0, 0
    with load_model(
        ModelSource(directory), dtype=torch.float32, device=cpu, scratch=scratch
    ) as loaded:
        if not loaded.report.clean:
            sys.exit(f"{directory} does not load cleanly: {loaded.report.sentence()}")
        for batch in batches(rows):
            losses = token_losses(loaded.model, batch)
            total, count = total + float(losses.sum()), count + losses.numel()
        value = math.exp(total / count)
        print(f"{value:.8g}  {type(loaded.model).__name__:24} {directory}", flush=True)
    return value


def batches(rows: list[list[int]]) -> list[torch.Tensor]:
    """Windows of one length together: ids [batch, time], so that nothing is padded."""
    full = [row for row in rows if len(row) == len(rows[0])]
    stacked = [torch.tensor(full[i : i + BATCH]) for i in range(0, len(full), BATCH)]
    return stacked + [torch.tensor([row]) for row in rows if len(row) != len(rows[0])]


def token_losses(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """-log p of every token given those before it: ids [batch, time] → [batch · (time - 1)]."""
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[:, :-1].double()
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


if __name__ == "__main__":
    main()
