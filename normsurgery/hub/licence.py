"""What a model card says of its licence, and whether that forbids derivatives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from normsurgery.report.front_matter import metadata


@dataclass(frozen=True)
class Licence:
    """The card's own words: `license` (one id, or several with commas), name and link."""

    id: str | None
    name: str | None
    link: str | None

    def against_derivatives(self) -> str | None:
        """The words that forbid passing on a changed work, or None where nothing says so.

        `nd` as a term (cc-by-nd-4.0, cc-by-nc-nd-4.0, a link to …/by-nd/4.0/), or "no derivatives"
        in any spelling, in the id, in the name of an `other` licence, or in its link.
        """
        return next((said for said in (self.id, self.name, self.link) if _forbids(said)), None)

    def to_dict(self) -> dict[str, str | None]:
        """For the `--json` document."""
        return {"id": self.id, "name": self.name, "link": self.link}


def licence_of(card: str) -> Licence:
    """What the card's front matter says; None for what it does not say."""
    front = metadata(card)
    return Licence(*(_words(front.get(f"license{key}")) for key in ("", "_name", "_link")))


def _words(value: Any) -> str | None:
    if value is None:
        return None
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _forbids(said: str | None) -> bool:
    terms = re.findall(r"[a-z]+", (said or "").lower())
    return "nd" in terms or re.search(r"no(n)?deriv", "".join(terms)) is not None
