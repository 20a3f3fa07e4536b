"""Checkpoints of timm through the same commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.timm_models.python import run_with_timm


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script found; run once, however many processes run the tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    told = root / "timm.json"
    with FileLock(root / "timm.lock"):
        if not told.exists():
            script = Path(__file__).with_name("surgeries.py")
            made = run_with_timm(script, tmp_path_factory.mktemp("timm"))
            told.write_text(json.dumps(made), encoding="utf-8")
    document: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return document


def test_a_timm_checkpoint_converts_and_opens_in_transformers_and_in_timm(found):
    one = found["convert"]
    assert one["verdict"] == "pass"
    assert max(one["stock"], one["graft"], one["timm"]) < 1e-5


def test_what_the_wrapper_cannot_open_is_refused_with_the_key_to_remove(found):
    assert "model_args" in found["unreadable"]["hint"]


@pytest.mark.parametrize("form", ["keep", "native"])
def test_folded_batch_norms_open_in_the_wrapper_with_timms_configuration(found, form):
    one = found[form]
    assert one["verdict"] == "pass"
    assert one["left"] == 0
    assert one["transformers"] < 1e-5
    assert {"architecture", "pretrained_cfg"} <= set(one["kept"])


def test_folded_batch_norms_open_in_timm(found):
    assert found["keep"]["timm"] is not None
    assert found["keep"]["timm"] < 1e-5
    # timm 1.0.31 takes its own inference form of a FastViT for Apple's files, and refuses it.
    assert found["native"]["timm"] is None


def test_a_graft_opens_by_its_own_file_and_timm_refuses_it(found):
    for name in ("graft", "merged"):
        assert found[name]["verdict"] == "pass"
        assert found[name]["transformers"] < 1e-5
        assert found[name]["timm"] is None


def test_branches_that_are_added_in_place_merge(found):
    assert found["merged"]["folded"] == 40
    assert found["merged"]["merged"] == 10
    assert found["merged"]["stored"] < found["merged"]["source"]


def test_an_architecture_without_an_inference_form_has_no_native_one(found):
    assert "no key that takes BatchNorms out" in found["no switch"]
