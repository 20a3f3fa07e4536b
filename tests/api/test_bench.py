"""`bench` on tiny models: what is measured, and of what; never how fast."""

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import normsurgery
from normsurgery.bench.memory import in_a_fresh_process
from normsurgery.cli import main
from normsurgery.errors import ResourceError, UnsupportedModelError, UsageError
from tests.families import build

FAST: dict[str, Any] = {"repeats": 6, "memory": False, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    names = ("gpt2", "vit", "bert", "whisper")
    return {name: (root / name, build(name, root / name)) for name in names}


def test_a_language_model_is_measured_on_every_cell_of_the_grid(models):
    directory, model = models["gpt2"]
    document = normsurgery.bench(
        directory, directory, batch=(1, 2), length=(6,), new_tokens=4, threads=1, **FAST
    ).to_dict()
    assert [(cell["batch"], cell["length"]) for cell in document["cells"]] == [(1, 6), (2, 6)]
    for cell in document["cells"]:
        assert set(cell["measures"]) == {"prefill", "decode"}
        assert cell["flops"][0] == cell["flops"][1] == flops(model, cell["batch"], 6)
        steps = [latency["count"] for latency in cell["measures"]["decode"]["latency"]]
        assert steps == [6 * 3, 6 * 3]
    first, second = document["models"]
    assert first["parameters"] == sum(p.numel() for p in model.parameters())
    assert first["memory"] is None and first["load"]["speedup"] is None
    assert second["load"]["speedup"]["pairs"] == second["load"]["latency"]["count"] == 6
    assert document["settings"]["new_tokens"] == 4 and document["settings"]["threads"] == 1
    assert document["notes"] == []


def flops(model, batch, length):
    """By hand for GPT-2: two a weight of every matrix and token, and attention's two products."""
    width, layers = model.config.n_embd, model.config.n_layer
    matrices = layers * 12 * width * width + model.config.vocab_size * width
    return batch * length * (2 * matrices + layers * 4 * length * width)


def test_an_image_model_has_one_measure_and_no_length(models, tmp_path):
    directory, model = models["vit"]
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 32, 32), dtype=np.float32))
    document = normsurgery.bench(directory, batch=(2,), data=tmp_path / "x.npy", **FAST).to_dict()
    (cell,) = document["cells"]
    assert cell["length"] is None and set(cell["measures"]) == {"forward"}
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.set_attn_implementation("eager")
        model(pixel_values=torch.zeros(2, 3, 32, 32))
    assert cell["flops"] == [counter.get_total_flops()]
    assert document["settings"]["data"] == "x.npy" and document["settings"]["new_tokens"] == 0


def test_an_encoder_of_text_is_measured_by_its_forward_pass(models):
    document = normsurgery.bench(models["bert"][0], length=(5,), **FAST).to_dict()
    assert document["cells"][0]["length"] == 5
    assert set(document["cells"][0]["measures"]) == {"forward"}


def test_a_model_that_writes_down_sounds_has_decode_and_no_length(models):
    document = normsurgery.bench(models["whisper"][0], new_tokens=3, **FAST).to_dict()
    (cell,) = document["cells"]
    assert cell["length"] is None and set(cell["measures"]) == {"prefill", "decode"}


@pytest.mark.parametrize(("names", "options", "words"), [
    (("gpt2", "vit"), {"length": (5,)}, "reads input_ids, vit pixel_values"),
    (("gpt2", "bert"), {"length": (5,)}, "does not"),
    (("gpt2",), {"length": (60,), "new_tokens": 8}, "reads 64 tokens, 68 are asked for"),
    (("gpt2",), {"new_tokens": 1}, "leave nothing"),
    (("gpt2",), {"batch": (0,)}, "count from 1"),
    (("gpt2",), {"compile": "all"}, "'all'"),
    (("gpt2",), {"data": "x.npy"}, "reads tokens alone"),
    ((), {}, "no model"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(models, names, options, words):
    with pytest.raises(UsageError, match=words):
        normsurgery.bench(*(models[name][0] for name in names), **{**FAST, **options})


def test_a_compiled_model_is_measured_beside_the_eager_one(models, monkeypatch):
    """With a compiler of our own: the real one takes minutes on a busy machine."""
    seen = []

    def compiler(forward):
        @functools.wraps(forward)
        def compiled(*given, **named):
            seen.append(forward)
            return forward(*given, **named)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    options = {**FAST, "repeats": 1, "compile": "eager+compiled"}
    document = normsurgery.bench(models["vit"][0], **options).to_dict()
    assert [cell["mode"] for cell in document["cells"]] == ["eager", "compiled"]
    assert len(seen) == 3  # two rounds before, and one that counts


def test_a_model_that_does_not_compile_says_why(models, monkeypatch):
    def compiler(forward):
        def compiled(*given, **named):
            raise RuntimeError("graph break\nat length")

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.raises(UnsupportedModelError, match=r"torch\.compile: graph break$"):
        normsurgery.bench(models["vit"][0], compile="eager+compiled", **FAST)


def test_too_few_samples_are_refused(models, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 32, 32), dtype=np.float32))
    with pytest.raises(UsageError, match="fewer than 3 samples"):
        normsurgery.bench(models["vit"][0], batch=(3,), data=tmp_path / "x.npy", **FAST)


def test_the_command_measures_memory_in_a_process_of_its_own(models, capsys):
    held = np.ones(2**27)  # a gibibyte here, of which the other process must know nothing
    given = [
        "bench",
        str(models["gpt2"][0]),
        "--length",
        "8",
        "--new-tokens",
        "2",
        "--repeats",
        "1",
    ]
    assert main([*given, "--threads", "1", "--device", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    memory = document["models"][0]["memory"]
    assert 2**26 < memory["before_load"] <= memory["loaded"] <= memory["peak"] < held.nbytes
    assert memory["cuda_peak"] is None


def test_a_process_that_dies_is_an_error_with_its_last_words():
    with pytest.raises(ResourceError, match="ended with 1: KeyError"):
        in_a_fresh_process({})
