"""Whether there is text enough for a least-squares fit."""

from __future__ import annotations

from normsurgery.errors import UsageError

ENOUGH = 4  # tokens per regressor


def check_tokens(tokens: int, regressors: int) -> str:
    """A warning where a fit has few tokens for its regressors, "" where it has enough.

    Raises UsageError where it has fewer tokens than regressors: any target would be met exactly.
    """
    share = tokens / regressors
    if share < 1:
        raise UsageError(
            f"{tokens:,} tokens cannot determine a fit of {regressors:,} regressors",
            f"give at least {ENOUGH * regressors:,} tokens (--tokens, --data)",
        )
    if share < ENOUGH:
        return (
            f"the fit has {tokens:,} tokens for {regressors:,} regressors, {share:.1f} each; "
            f"below {ENOUGH} it describes its text more than the model"
        )
    return ""
