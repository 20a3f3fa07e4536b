"""Checkpoints of timm through the same commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.timm_models.python import run_with_timm


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("surgeries.py")
    return run_with_timm(script, tmp_path_factory.mktemp("timm"))


def test_a_timm_checkpoint_converts_and_opens_in_transformers_and_in_timm(found):
    one = found["convert"]
    assert one["verdict"] == "pass"
    assert max(one["stock"], one["graft"], one["timm"]) < 1e-5


def test_what_the_wrapper_cannot_open_is_refused_with_the_key_to_remove(found):
    assert "model_args" in found["unreadable"]["hint"]
