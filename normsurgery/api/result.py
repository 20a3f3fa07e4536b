"""What a command hands back to a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command found or did, as the document that `--json` prints."""

    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return self.document

    def _repr_html_(self) -> str:
        """The report, where a notebook shows the result."""
        from normsurgery.report.html import html_report

        return html_report(self.to_dict())
