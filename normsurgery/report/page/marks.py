"""Where two texts part: the words of the second that the first does not have are marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from normsurgery.report.page.blocks import Sample, Span, Words

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
PROMPT = "prompt"


def marked(reference: str, other: str) -> Words:
    """The other text as spans; words that are not the reference's have the style `differs`."""
    ours, theirs = _WORD.findall(other), _WORD.findall(reference)
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    spans = []
    for kind, _, _, start, end in matcher.get_opcodes():
        if end > start:
            spans.append(Span("".join(ours[start:end]), "" if kind == "equal" else "differs"))
    return tuple(spans)


def samples_of(found: Sequence[Mapping[str, str]]) -> tuple[Sample, ...]:
    """A document's samples; every column but the first is held against the first."""
    made = []
    for sample in found:
        names = [name for name in sample if name != PROMPT]
        texts = {name: str(sample[name]).strip() for name in names}
        first = texts[names[0]] if names else ""
        columns = tuple((name, marked(first, text)) for name, text in texts.items())
        made.append(Sample(str(sample.get(PROMPT, "")).strip(), columns))
    return tuple(made)


def sameness(found: Sequence[Mapping[str, str]]) -> str:
    """`2 of 3 continuations are the same, word for word`; of the first and the last column."""
    names = [name for name in found[0] if name != PROMPT]
    same = sum(str(sample[names[0]]) == str(sample[names[-1]]) for sample in found)
    return f"{same} of {len(found)} continuations of {names[0]} and {names[-1]} are the same"
