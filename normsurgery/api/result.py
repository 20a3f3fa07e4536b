"""What a command hands back to a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Reported:
    """Shows its document as a report in a notebook."""

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from normsurgery.report.html import html_report

        return html_report(self.to_dict())


@dataclass(frozen=True)
class Result(Reported):
    """What a command found or did, as the document that `--json` prints."""

    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return self.document
