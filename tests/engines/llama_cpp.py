"""Greedy text and token losses of a Llama or Arcee checkpoint, by llama.cpp and by transformers.

llama.cpp comes in the wheel of `xllamacpp`, the file is written with `gguf`
(`pip install "normsurgery[engines]"`). Everything is float32: weights, cache and attention.
"""

from __future__ import annotations

import json
import math
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from normsurgery.anatomy.runtime import quiet
from normsurgery.verify.sources import read_config
from tests.engines.gguf_file import write_gguf

TIMEOUT_SECONDS = 300.0


class LlamaCpp:
    """A checkpoint opened in llama.cpp, in one thread; a context manager.

    context: the longest prompt and its continuation together, in tokens.
    """

    def __init__(self, directory: Path, *, context: int = 512) -> None:
        self._directory = directory
        self._scratch = tempfile.TemporaryDirectory()
        try:
            file = Path(self._scratch.name, "model.gguf")
            write_gguf(directory, file)
            self._server = _serve(file, context)
            # Closed before its queue runs, the server waits for ever; an answer says that it runs.
            self._complete([0], 1)
        except BaseException:
            self._scratch.cleanup()
            raise

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self._server  # its destructor ends the threads
        self._scratch.cleanup()

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """The ids of the continuation, without the end-of-text token."""
        answer = self._complete(list(prompt), tokens, return_tokens=True)
        return ended(self._directory, answer["tokens"])

    def text(self, prompt: str, tokens: int) -> str:
        """The continuation as llama.cpp's own tokenizer reads the prompt and writes the answer."""
        text: str = self._complete(prompt, tokens)["content"]
        return text

    def tokens(self, text: str) -> list[int]:
        """The ids that llama.cpp's own tokenizer makes of a text."""
        return [int(token) for token in self._ask("/tokenize", {"content": text})["tokens"]]

    def losses(self, ids: Sequence[int]) -> list[float]:
        """-log p of ids[1:], each given the ids before it [len(ids) - 1].

        One request a position: llama.cpp's server gives the probabilities of the next token only.
        """
        vocabulary = read_config(self._directory)["vocab_size"]
        # The answer leaves out a token that ends the text or is a part of a character, so a plain
        # one is forced; the probabilities are those before the sampler, which this does not touch.
        forced = [[self.tokens("a")[0], 1e6]]
        out = []
        for end in range(1, len(ids)):
            answer = self._complete(list(ids[:end]), 1, n_probs=vocabulary, logit_bias=forced)
            tops = answer["completion_probabilities"][0]["top_logprobs"]
            out.append(-next(top["logprob"] for top in tops if top["id"] == ids[end]))
        return out

    def _complete(self, prompt: str | list[int], tokens: int, **options: Any) -> dict[str, Any]:
        return self._ask(
            "/completion", {"prompt": prompt, "n_predict": tokens, "temperature": 0, **options}
        )

    def _ask(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """llama.cpp's own HTTP interface on the loopback: the binding's functions hide the ids."""
        url, body = self._server.listening_address + path, json.dumps(request).encode()
        with urllib.request.urlopen(url, body, timeout=TIMEOUT_SECONDS) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def _serve(file: Path, context: int) -> Any:
    """llama.cpp's server on that file, in this process, with nothing narrower than float32."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = math.ceil(context / 256) * 256
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = params.fit_params = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def greedy(directory: Path, prompt_ids: Sequence[int], tokens: int) -> list[int]:
    """llama.cpp's greedy continuation of one prompt, without the end-of-text token."""
    with LlamaCpp(directory, context=len(prompt_ids) + tokens) as engine:
        return engine.greedy(prompt_ids, tokens)


class Transformers:
    """The same questions to transformers, in float32, about any causal language model."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._directory = directory
        with quiet():
            self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._model.eval()

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """The ids of the continuation, without the end-of-text token."""
        with torch.inference_mode(), quiet():
            row = self._model.generate(
                torch.tensor([list(prompt)]), max_new_tokens=tokens, do_sample=False, num_beams=1
            )[0]
        return ended(self._directory, row[len(prompt) :].tolist())

    def losses(self, ids: Sequence[int]) -> list[float]:
        """-log p of ids[1:], each given the ids before it [len(ids) - 1]."""
        logits = self._logits(ids)[:-1].double()
        wanted = torch.tensor(list(ids[1:]))
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()

    def margins(self, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """How far the best logit is above the second where each token was chosen."""
        logits = self._logits([*prompt, *continuation])[len(prompt) - 1 : -1]
        best = logits.topk(2, dim=-1).values
        return (best[:, 0] - best[:, 1]).tolist()

    def _logits(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self._model(torch.tensor([list(ids)])).logits[0]
        return logits


def ended(directory: Path, ids: list[int]) -> list[int]:
    """The ids up to the first end-of-text token: one engine returns it, another may not."""
    end = read_config(directory).get("eos_token_id")
    return ids[: ids.index(end)] if end in ids else ids
