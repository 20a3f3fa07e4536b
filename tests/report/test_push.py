"""The report of `push`: the link, what stayed and why, what went from the Hub."""

from __future__ import annotations

from tests.report import documents
from tests.report.test_render import row, shown


def test_the_link_is_the_last_line_and_is_whole_however_narrow() -> None:
    document = documents.push_document()
    lines = shown(document, width=30).splitlines()
    assert [line.strip() for line in lines if line.strip()][-1] == document["url"]


def test_what_went_what_stayed_and_what_is_gone() -> None:
    text = shown(documents.push_document())
    assert row(text, "model.safetensors") == ["325", "MB"]
    assert row(text, "optimizer.pt") == "the state of a training run".split()
    assert "model-00001-of-00002.safetensors (still in the history)" in text
    assert row(text, "visible") == ["to", "everyone"]
    assert "pull request opened  commit 1111111, 4.2 s" in text


def test_what_is_not_verified_and_a_dry_run_are_said() -> None:
    document = documents.push_document() | {"verdict": "skipped", "dry_run": True, "left": []}
    text = shown(document | {"commit": None, "url": None, "removed": [], "private": True})
    assert row(text, "verified") == "skipped: the card says so".split()
    assert row(text, "visible")[:2] == ["to", "you"]
    assert "nothing was sent (dry run)" in text and "Not uploaded" not in text


def test_a_push_that_changed_nothing_says_so() -> None:
    document = documents.push_document() | {"unchanged": True, "pull_request": None}
    assert "nothing has changed there  commit 1111111" in shown(document)
