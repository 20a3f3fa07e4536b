"""The errors that normsurgery raises: one line, one hint, one exit code.

`SurgeryError` is the only exception a caller needs to catch; the subclasses exist to give
each kind of failure its exit code (the README lists them).
"""

from __future__ import annotations

from typing import Any


class SurgeryError(Exception):
    """Something stopped the run; `message` says what, `hint` names the next thing to try."""

    exit_code: int = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_dict(self) -> dict[str, dict[str, str | int]]:
        """The `--json` document of a failure."""
        return {"error": {"message": self.message, "hint": self.hint, "exit_code": self.exit_code}}


class UsageError(SurgeryError):
    """The request itself is wrong: an option, a recipe, a destination that exists."""

    exit_code = 2


class CheckpointError(SurgeryError):
    """The checkpoint on disk is malformed, incomplete or contradicts itself."""

    exit_code = 3


class UnsupportedModelError(SurgeryError):
    """The checkpoint is sound, but this surgery does not apply; the message says why."""

    exit_code = 4


class ResourceError(SurgeryError):
    """Not enough disk or memory."""

    exit_code = 5


class VerificationError(SurgeryError):
    """A proof or a verification failed; nothing was moved into place."""

    exit_code = 6


class HubError(SurgeryError):
    """The Hub could not be reached, or refused."""

    exit_code = 7


class NotPushedError(HubError):
    """A recipe's output stands, but was not pushed. document: of the recipe, but for the push."""

    def __init__(self, message: str, hint: str, document: dict[str, Any]) -> None:
        super().__init__(message, hint)
        self.document = document
