"""Does a Llama checkpoint give the same greedy text in llama.cpp as in transformers?

Exports the directory to GGUF in float32, continues a few prompts greedily in both, and compares
the token ids, the text through llama.cpp's own tokenizer, and the loss of every token of a passage.
Needs `pip install "normsurgery[engines]"`. Without a directory, a small random Llama is built.

    python benchmarks/engine.py [LLAMA_DIRECTORY] [--tokens 64] [--prompt TEXT ...] [--text FILE]

Exit code 1 where any continuation differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from normsurgery.anatomy.runtime import quiet
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


def main() -> None:
    parser = argparse.ArgumentParser(description="a Llama checkpoint in llama.cpp and transformers")
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=64, help="of each continuation")
    parser.add_argument("--prompt", action="append", help="may be repeated")
    parser.add_argument("--text", type=Path, help="whose first tokens are scored; has a default")
    arguments = parser.parse_args()
    if importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("gguf") is None:
        print('llama.cpp is not installed: pip install "normsurgery[engines]"')
        return
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        directory = arguments.directory
        if directory is None:
            directory = Path(scratch)
            build_llama(directory)
        prompts = arguments.prompt or PROMPTS
        same = report(directory, prompts, arguments.tokens)
        score(directory, arguments.text)
    sys.exit(0 if same else 1)


def report(directory: Path, prompts: Any, tokens: int) -> bool:
    """Print both continuations of every prompt; whether all are the same."""
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    reference = Transformers(directory)
    everywhere = True
    with LlamaCpp(directory, context=1024) as engine:
        for prompt in prompts:
            ids = tokenizer(prompt)["input_ids"]
            expected = reference.greedy(ids, tokens)
            found = engine.greedy(ids, tokens)
            texts = tokenizer.decode(expected), engine.text(prompt, tokens)
            margin = min(reference.margins(ids, expected), default=math.inf)
            # Bytes that are no UTF-8 are replaced by one engine, left out by the other.
            same = found == expected and (texts[0] == texts[1] or "\ufffd" in texts[0])
            everywhere &= same
            print(f"prompt        {prompt!r}, {len(ids)} tokens")
            print(f"transformers  {texts[0]!r}")
            print(f"llama.cpp     {texts[1]!r}")
            verdict = "the same" if same else "DIFFERENT"
            print(f"{verdict}: {len(expected)} tokens, smallest margin between logits {margin:.1e}")
    return everywhere


def score(directory: Path, text: Path | None) -> None:
    """Print the perplexity of a passage in both, and the largest difference of a token's loss."""
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        ids = tokenizer(read_text(text, characters=4096))["input_ids"][:PASSAGE_TOKENS]
    expected = Transformers(directory).losses(ids)
    with LlamaCpp(directory, context=len(ids) + 1) as engine:
        found = engine.losses(ids)
    worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    for name, losses in {"transformers": expected, "llama.cpp": found}.items():
        print(f"perplexity    {name:12} {math.exp(sum(losses) / len(losses)):.8g}")
    print(f"largest difference of a token's loss {worst:.1e}, {len(expected)} tokens")


if __name__ == "__main__":
    main()
