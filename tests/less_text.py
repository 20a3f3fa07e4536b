"""Reports measured on less text than a person's: how the figures come about is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest

from normsurgery.verify.options import VerifyOptions

# How many tokens losses are measured on, and what a verification compares.
_HELD_OUT = ("normsurgery.api.texts.JUDGED_TOKENS", "normsurgery.train.domains.OTHER_TOKENS")
_COMPARED = {"tokens": 512, "new_tokens": 12}


@contextmanager
def less_text(held_out: int = 2048) -> Iterator[None]:
    """While open, losses are of `held_out` tokens of each domain, and verifications of fewer."""
    made = VerifyOptions.__init__
    names = [field.name for field in fields(VerifyOptions)]
    assert made.__defaults__ is not None
    asked = zip(names, made.__defaults__, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in _HELD_OUT:
            patch.setattr(name, held_out)
        patch.setattr(
            made, "__defaults__", tuple(_COMPARED.get(name, value) for name, value in asked)
        )
        yield


@pytest.fixture(scope="module", autouse=True)
def measured_on_less_text() -> Iterator[None]:
    """For a conftest or a module to import."""
    with less_text():
        yield
