"""Logits as the sum of the blocks' contributions: true without a final norm, and only then."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

import normsurgery
from normsurgery.errors import UnsupportedModelError
from normsurgery.report.checks import checks, forms_of
from normsurgery.verify.linearity import Linearity, linearity
from tests.cli.invoke import command
from tests.surgery.norm_free_models import opened, subject, written


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """`exports(name, export, dtype)` → (Subject, plan, directory), made once a module."""
    made = {}

    def make(name, export="graft", dtype="float64"):
        key = (name, export, dtype)
        if key not in made:
            root = tmp_path_factory.mktemp("linear")
            one = subject(name, root / "source", dtype=dtype)
            plan = one.plan(export)
            made[key] = one, plan, written(plan.operate(one.checkpoint)[0], root / "result")
        return made[key]

    return make


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mixtral", "qwen3_inner"])
def test_a_norm_free_model_is_the_sum_of_its_blocks(exports, name):
    one, plan, directory = exports(name)
    model = opened(plan.forms["graft"](directory), directory)
    found = linearity(model, one.inputs())
    assert found.passed
    assert found.error <= 1e-10
    depth = len([p for p in one.paths if p.kind == "v"])
    assert found.contributions == depth + 1


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_a_model_with_a_final_norm_is_not(exports, name):
    one, _, _ = exports(name)
    found = linearity(one.model, one.inputs())
    assert not found.passed
    assert found.error > 0.1


def test_one_norm_that_stays_is_enough_to_fail(exports):
    one, plan, directory = exports("gpt2_mlp")
    found = linearity(opened(plan.forms["graft"](directory), directory), one.inputs())
    assert not found.passed


def test_a_soft_cap_on_the_logits_is_found_too(exports):
    one, plan, directory = exports("gemma2_inner")
    model = opened(plan.forms["graft"](directory), directory)
    assert not linearity(model, one.inputs()).passed
    model.config.final_logit_softcapping = None
    assert linearity(model, one.inputs()).passed


def test_the_stock_form_is_linear_up_to_its_error(exports):
    one, plan, directory = exports("gpt2", "stock")
    assert plan.division is not None
    found = linearity(opened(type(one.model), directory), one.inputs())
    assert 0 < found.error
    assert found.error <= 100 * plan.division.error


def test_the_model_is_left_as_it_was(exports):
    one, _, _ = exports("gpt2")
    before = dict(copy.copy(vars(one.model.transformer.h[0])))
    with torch.no_grad():
        expected = one.model(**one.inputs()).logits
    linearity(one.model, one.inputs())
    with torch.no_grad():
        assert torch.equal(one.model(**one.inputs()).logits, expected)
    assert vars(one.model.transformer.h[0]).keys() == before.keys()


def test_a_model_without_a_language_head_is_refused(exports):
    one, _, _ = exports("vit")
    with pytest.raises(UnsupportedModelError, match="no language head"):
        linearity(one.model, one.inputs())


def test_nan_fails():
    assert not Linearity(math.nan, 4).passed
    assert not Linearity(math.inf, 4).passed
    assert Linearity(1e-6, 4).passed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_verify_asks_for_it(exports, dtype):
    one, _, directory = exports("gpt2", dtype=dtype)
    source = one.checkpoint.directory
    options: dict[str, Any] = {
        "contract": "trained",
        "tokens": 96,
        "max_length": 24,
        "trust_remote_code": True,
    }
    result = normsurgery.verify(source, directory, linearity=True, **options)
    assert result.passed
    document = result.to_dict()["verification"]
    assert document["linearity"]["passed"] is True
    assert document["linearity"]["error"] <= document["linearity"]["allowed"] == 1e-5
    assert document["linearity"]["contributions"] == 4
    (row,) = [row for row in checks(forms_of(document)) if "contributions" in row[0]]
    assert row[3] is True
    silent = normsurgery.verify(source, directory, **options).to_dict()["verification"]
    assert silent["linearity"] is None
    assert not [row for row in checks(forms_of(silent)) if "contributions" in row[0]]


def test_verify_fails_a_model_that_is_not_linear(exports):
    one, _, _ = exports("gpt2", dtype="float32")
    source = str(one.checkpoint.directory)
    result = normsurgery.verify(source, source, linearity=True, tokens=96, max_length=24)
    assert not result.passed
    assert (
        "logits are not the sum of the blocks' contributions"
        in result.to_dict()["verification"]["why"]
    )
    done = command("verify", source, source, "--linearity", "--tokens", "96")
    assert done.returncode == 6
    assert "contributions (max / std)" in done.stdout
