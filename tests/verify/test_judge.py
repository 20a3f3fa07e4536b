"""One reference run, several candidates; classes handed over; offload; what is left behind."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch
import transformers

from normsurgery.errors import UnsupportedModelError
from normsurgery.report.progress import Silent
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference
from normsurgery.verify import run as run_module
from normsurgery.verify.load import available_memory_bytes, load_model
from normsurgery.verify.sources import class_of, stored_dtype
from tests.verify.helpers import cast, centre_gpt2, edited, find, verified

OPTIONS = VerifyOptions(tokens=192, max_length=48, new_tokens=8)

MODELING = """
from transformers import GPT2LMHeadModel

class ShiftedGPT2(GPT2LMHeadModel):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + {shift}
        return output
"""


class Doubled(transformers.GPT2LMHeadModel):  # type: ignore[misc]
    """A class whose answer is wrong on the same files."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_one_reference_judges_several_candidates(tiny, tmp_path):
    source = tiny("gpt2")
    centred = edited(source, tmp_path / "centred", centre_gpt2)
    run = run_reference(ModelSource(source), OPTIONS)
    assert judge(run, ModelSource(centred)).verdict == "pass"
    wrong = judge(run, ModelSource(centred, model_class=Doubled))
    assert wrong.verdict == "fail"
    assert judge(run, ModelSource(centred)).verdict == "pass"
    assert judge(run, ModelSource(source, model_class=Doubled), contract="lossy").passed


@pytest.fixture
def remote(tiny, tmp_path):
    """A checkpoint with its own modeling file."""

    def make(shift: float) -> Path:
        auto_map = {"AutoModelForCausalLM": "modeling_shifted.ShiftedGPT2"}
        target = edited(tiny("gpt2"), tmp_path / f"s{shift}", lambda _: None, auto_map=auto_map)
        (target / "modeling_shifted.py").write_text(MODELING.format(shift=shift))
        return target

    return make


def test_the_modeling_file_runs_only_when_trusted(tiny, remote, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = run_reference(ModelSource(tiny("gpt2")), OPTIONS)
    shifted = remote(0.01)
    assert judge(run, ModelSource(shifted)).verdict == "pass"
    assert judge(run, ModelSource(shifted, trust_remote_code=True)).verdict == "fail"
    # Nothing was registered: the next untrusted load is stock code again.
    assert judge(run, ModelSource(shifted)).verdict == "pass"


def test_a_class_that_only_the_directory_has_needs_trust(tiny, tmp_path):
    directory = edited(
        tiny("gpt2"), tmp_path / "own", lambda _: None,
        architectures=["NowhereElse"], auto_map={"AutoModel": "modeling_x.NowhereElse"},
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="NowhereElse"):
        class_of(ModelSource(directory))


def test_the_scratch_directory_goes_with_the_run(tiny, monkeypatch):
    monkeypatch.setattr(run_module, "_SPOOL_BYTES", 0)  # everything goes to files
    run = run_reference(ModelSource(tiny("gpt2")), OPTIONS)
    scratch = run.scratch
    assert list(scratch.iterdir())
    found = judge(run, ModelSource(tiny("gpt2")))
    assert (found.verdict, found.outputs["logits"].difference.max) == ("pass", 0.0)
    del run
    gc.collect()
    assert not scratch.exists()


def test_spooled_outputs_give_the_same_figures(tiny, tmp_path, monkeypatch):
    source = tiny("gpt2")
    centred = edited(source, tmp_path / "centred", centre_gpt2)
    kept = verified(source, centred).to_dict()
    monkeypatch.setattr(run_module, "_SPOOL_BYTES", 0)
    assert verified(source, centred).to_dict() == kept


def test_progress_counts_every_token_of_every_stage(tiny):
    class Counting(Silent):
        def __init__(self) -> None:
            self.stages: dict[str, list[int]] = {}

        def task(self, description, total, unit):
            import contextlib

            self.stages[f"{description} {unit}"] = steps = [-total]
            return contextlib.nullcontext(steps.append)

    progress = Counting()
    source = ModelSource(tiny("gpt2"))
    judge(run_reference(source, OPTIONS, progress=progress), source, progress=progress)
    assert list(progress.stages) == [
        "truth (float64) tokens", "noise floor (float32) tokens", "candidate (float32) tokens",
    ]  # fmt: skip
    assert all(sum(steps) == 0 for steps in progress.stages.values())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_models_larger_than_memory_are_offloaded(tiny, family, tmp_path):
    source = tiny(family)
    size = (source / "model.safetensors").stat().st_size
    limit = int(size * 1.2)
    cpu = torch.device("cpu")
    with load_model(
        ModelSource(source), dtype=torch.float32, device=cpu, scratch=tmp_path,
        memory_limit_bytes=limit,
    ) as loaded:  # fmt: skip
        assert loaded.offloaded
        held = sum(p.nbytes for p in loaded.model.parameters() if p.device.type != "meta")
        assert held < size

    def edit(tensors):
        tensors[find(tensors, "1.mlp.c_fc.weight" if family == "gpt2" else "1.mlp.up_proj.weight")][
            0
        ] += 0.5

    ample = verified(source, source).to_dict()
    tight = verified(source, source, memory_limit_bytes=limit).to_dict()
    assert tight["verdict"] == "pass"
    assert tight["generation"]["new_tokens"] == 4
    assert tight["loss"] == ample["loss"]
    assert tight["noise_floor"] == ample["noise_floor"]
    damaged = edited(source, tmp_path / "damaged", edit)
    assert verified(source, damaged, memory_limit_bytes=limit).verdict == "fail"


def test_a_model_of_which_nothing_fits_is_read_block_by_block(tiny):
    found = verified(tiny("gpt2"), tiny("gpt2"), memory_limit_bytes=1000)
    assert found.verdict == "pass"


def test_free_memory_is_a_plausible_number():
    assert 2**20 < available_memory_bytes() < 2**50


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_stored_dtype_is_read_from_the_headers(tiny, tmp_path, dtype):
    source = edited(tiny("gpt2"), tmp_path / "out", cast(getattr(torch, dtype)), dtype="float32")
    assert stored_dtype(source) == getattr(torch, dtype)
