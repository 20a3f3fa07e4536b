"""What a README.md of ours is made of: our section between two marks, and what is around it."""

from __future__ import annotations

from dataclasses import dataclass

from normsurgery.errors import UsageError
from normsurgery.report.markdown import cell

BEGIN = (
    "<!-- normsurgery: this section describes the checkpoint beside it; the source's card follows "
    "-->"
)
END = "<!-- normsurgery: end of section -->"
WHERE = "path/to/this/checkpoint"  # or its Hub id, which nobody knows before `push`
EARLIER = "path/to/the/source/of/this"  # where a section tells of an earlier checkpoint
_SHORT = "<!-- normsurgery: this section"  # so that a changed end of the line is no other mark


@dataclass(frozen=True)
class Parts:
    """A card's body: what stands before our section, the section without its marks (None where
    there is none), and what follows."""

    before: str
    ours: str | None
    after: str


def parts_of(body: str) -> Parts:
    """Take the body of a card (without front matter) apart.

    Raises UsageError where one of the two marks is there without the other.
    """
    start = body.find(_SHORT)
    if start < 0 and END not in body:
        return Parts("", None, body)
    close = body.find("-->", start) + 3 if start >= 0 else -1
    end = body.find(END, max(close, 0))
    if start < 0 or close < 3 or end < 0 or _SHORT in body[close:end]:
        raise UsageError(
            "one of the two marks around our section of README.md is gone",
            f"put back {BEGIN if start < 0 else END}, or delete the other mark as well",
        )
    return Parts(body[:start], body[close:end].strip("\n"), body[end + len(END) :])


def marked(section: str) -> str:
    """Our section between its marks."""
    return f"{BEGIN}\n{section}\n{END}\n"


def as_history(body: str) -> str:
    """A source's card, in which a section of ours, if there is one, becomes what was done before.

    Its headings go one down and its code names another place, so that nobody takes it for this
    checkpoint's.
    """
    try:
        found = parts_of(body)
    except UsageError:  # a person's own card, or one that was cut: kept as it is
        return body
    if found.ours is None:
        return body
    title, _, rest = found.ours.partition("\n")
    name = cell(title.lstrip("# "))
    earlier = _lowered(rest.strip("\n")).replace(repr(WHERE), repr(EARLIER))
    history = (
        f"## What was done before: {name}\n\n"
        "The checkpoint that this one was made from was itself made by normsurgery. Figures and "
        "code below are that checkpoint's.\n\n"
        f"<details>\n<summary>{name}</summary>\n\n{earlier}\n\n</details>\n"
    )
    around = [found.before.strip("\n"), history, found.after.lstrip("\n")]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in around if part)


def _lowered(text: str) -> str:
    """Every heading one level down; lines of code are no headings."""
    lines, code = [], False
    for line in text.split("\n"):
        code ^= line.startswith("```")
        lines.append(f"#{line}" if line.startswith("#") and not code else line)
    return "\n".join(lines)


def at_home(card: str, repository: str) -> str:
    """The card with its Hub id in the lines that load it.

    These are the ones of our section; where a person took the marks away, those of the first block
    of code that holds the placeholder. What is further down is the source's, and speaks of another
    model.
    """
    start = card.find(_SHORT)
    end = card.find(END, start)
    if start < 0 or end < 0:
        start = card.find(repr(WHERE))
        end = card.find("```", start)
    if start < 0 or end < 0:
        return card
    return card[:start] + card[start:end].replace(repr(WHERE), repr(repository)) + card[end:]
