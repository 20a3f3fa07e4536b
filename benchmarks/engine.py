"""Does a Llama or Arcee checkpoint give the same greedy text in llama.cpp as in transformers?

Exports the directory to GGUF in float32, continues a few prompts greedily in both, and compares
the token ids, the text through llama.cpp's own tokenizer, and the perplexity of a passage (to six
digits). With --source, transformers runs that checkpoint instead: the one that the
directory was converted from. Without a directory, a small random Llama is built.
Needs `pip install "normsurgery[engines]"`.

    normsurgery convert OLMO -o LLAMA --target native
    python benchmarks/engine.py [LLAMA] [--source OLMO] [--prompt TEXT ...] [--text FILE]

Exit code 1 where a continuation or the perplexity differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import UsageError
from normsurgery.verify.text import read_text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.engines.llama_cpp import LlamaCpp, Transformers
from tests.engines.tiny_llama import build_llama

PROMPTS = (
    "It was the best of times",
    "The old man looked at the sea and",
    "“I do not know,” she said,",
    "Chapter I",
)
PASSAGE_TOKENS = 256
CONTEXT = 1024  # tokens that llama.cpp keeps room for


def main() -> None:
    parser = argparse.ArgumentParser(description="a checkpoint in llama.cpp and in transformers")
    parser.add_argument("directory", type=Path, nargs="?", help="of a Llama or an Arcee")
    parser.add_argument("--source", type=Path, help="what transformers runs, if not the same")
    parser.add_argument("--tokens", type=int, default=64, help="of each continuation")
    parser.add_argument("--prompt", action="append", help="may be repeated")
    parser.add_argument("--text", type=Path, help="whose first tokens are scored; has a default")
    arguments = parser.parse_args()
    if importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("gguf") is None:
        print('llama.cpp is not installed: pip install "normsurgery[engines]"', file=sys.stderr)
        sys.exit(0 if arguments.directory is None else 1)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
    print(f"xllamacpp {version('xllamacpp')}, float32")
    with tempfile.TemporaryDirectory() as scratch:
        directory = arguments.directory or Path(scratch)
        if arguments.directory is None:
            build_llama(directory)
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        reference = Transformers(arguments.source or directory)
        with opened(directory) as engine:
            prompts = arguments.prompt or PROMPTS
            verdicts = [
                continued(reference, engine, tokenizer, prompt, arguments.tokens)
                for prompt in prompts
            ]
            verdicts.append(scored(reference, engine, tokenizer, arguments.text))
    sys.exit(0 if all(verdicts) else 1)


def opened(directory: Path) -> LlamaCpp:
    """llama.cpp with that checkpoint; ends the program where the file format cannot express it."""
    try:
        return LlamaCpp(directory, context=CONTEXT)
    except UsageError as error:
        sys.exit(f"error: {error.message}")


def continued(
    reference: Transformers, engine: LlamaCpp, tokenizer: Any, prompt: str, tokens: int
) -> bool:
    """Print both continuations of one prompt; whether they are the same."""
    ids = tokenizer(prompt)["input_ids"]
    expected = reference.greedy(ids, tokens)
    texts = tokenizer.decode(expected), engine.text(prompt, tokens)
    # Bytes that are no UTF-8 are replaced by one engine and left out by the other.
    same = engine.greedy(ids, tokens) == expected and (texts[0] == texts[1] or "\ufffd" in texts[0])
    margin = min(reference.margins(ids, expected), default=math.inf)
    print(f"prompt        {prompt!r}, {len(ids)} tokens")
    print(f"transformers  {texts[0]!r}")
    print(f"llama.cpp     {texts[1]!r}")
    print(f"{'the same' if same else 'DIFFERENT'}: {len(expected)} tokens, ", end="")
    print(f"smallest margin between the best two logits {margin:.1e}")
    return same


def scored(reference: Transformers, engine: LlamaCpp, tokenizer: Any, text: Path | None) -> bool:
    """Print the perplexity of a passage in both; whether six digits agree."""
    with quiet():
        ids = tokenizer(read_text(text, characters=4096))["input_ids"][:PASSAGE_TOKENS]
    expected, found = reference.losses(ids), engine.losses(ids)
    worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    figures = [math.exp(sum(losses) / len(losses)) for losses in (expected, found)]
    difference = abs(figures[1] / figures[0] - 1)
    # Half a unit of the sixth digit; the two engines add up in different orders.
    same = abs(figures[1] - figures[0]) <= 0.5 * 10.0 ** (math.floor(math.log10(figures[0])) - 5)
    print(f"perplexity    transformers {figures[0]:.8g}, llama.cpp {figures[1]:.8g}, ", end="")
    print(f"{len(found)} tokens")
    print(f"{'the same' if same else 'DIFFERENT'}: relative difference {difference:.1e}, ", end="")
    print(f"largest difference of a token's loss {worst:.1e}")
    return same


if __name__ == "__main__":
    main()
