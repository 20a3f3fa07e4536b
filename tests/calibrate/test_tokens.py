"""How many tokens a fit needs."""

from __future__ import annotations

import pytest

from normsurgery.calibrate.tokens import check_tokens
from normsurgery.errors import UsageError


def test_enough_tokens_need_no_word() -> None:
    assert check_tokens(400, 100) == ""


def test_few_tokens_are_a_warning_with_the_number() -> None:
    warning = check_tokens(399, 100)
    assert "399 tokens" in warning
    assert "4.0 each" in warning
    assert check_tokens(100, 100)


def test_fewer_tokens_than_regressors_are_an_error() -> None:
    with pytest.raises(UsageError, match="99 tokens") as caught:
        check_tokens(99, 100)
    assert "400" in caught.value.hint
