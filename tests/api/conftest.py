"""Losses of a report are measured on less text than a person's: how they come about is the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

HELD_OUT = ("normsurgery.api.texts.JUDGED_TOKENS", "normsurgery.train.domains.OTHER_TOKENS")


@pytest.fixture(scope="package", autouse=True)
def less_held_out_text() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in HELD_OUT:
            patch.setattr(name, 2048)
        yield
