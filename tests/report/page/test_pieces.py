"""The parts of a page: terminal shapes as blocks, marked words, figures, SVG."""

from typing import Any

import pytest
from rich.panel import Panel
from rich.text import Text

from normsurgery.report.page.blocks import Code, Heading, Line, Points, Span, Table, points
from normsurgery.report.page.changes import config_table, every_figure
from normsurgery.report.page.marks import marked, sameness, samples_of
from normsurgery.report.page.shapes import blocks_of
from normsurgery.report.page.svg import safe_svg
from normsurgery.report.tables import facts, plain_table, section, verdict

SVG = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def plain(words):
    return "".join(span.text for span in words)


def rows(table):
    return [[plain(words) for words in row] for row in table.rows]


def test_a_section_becomes_a_heading_and_a_table():
    grid = plain_table(["a", "b"], [["x", Text("7", "bold")], ["y", verdict("fail")]], right=(1,))
    heading, table = blocks_of(section("Title", grid))
    assert heading == Heading("Title") and isinstance(table, Table)
    assert table.columns == ("a", "b") and table.numbers == {1}
    assert rows(table) == [["x", "7"], ["y", "fail"]]
    assert table.rows[0][1] == (Span("7", "bold"),) and table.rows[1][1] == (Span("fail", "fail"),)


def test_facts_and_remarks_keep_their_shape():
    told, listed, line = blocks_of(
        [
            facts([("k", "v")]),
            facts([("·", "one"), ("·", "two")]),
            Text.assemble("a ", verdict("pass")),
        ]
    )
    assert isinstance(told, Table) and told.columns == () and rows(told) == [["k", "v"]]
    assert isinstance(listed, Points) and [plain(x) for x in listed.items] == ["one", "two"]
    assert line == Line((Span("a "), Span("pass", "pass")))


def test_empty_lines_fall_away_and_unknown_shapes_do_not():
    assert blocks_of([Text(), Text("  ")]) == ()
    with pytest.raises(TypeError, match="Panel"):
        blocks_of([Panel("x")])


def test_names_between_backticks_are_code_and_a_lone_one_is_itself():
    listed = points(["use `x` here", "a ` alone"])
    assert listed.items[0] == (Span("use "), Span("x", "code"), Span(" here"))
    assert listed.items[1] == (Span("a ` alone"),)


def test_words_that_differ_are_marked_and_no_others():
    spans = marked("it was the best, of times", "it was a best, of bad times")
    assert "".join(s.text for s in spans) == "it was a best, of bad times"
    assert [s.text.strip() for s in spans if s.style] == ["a", "bad"]
    assert marked("same text", "same text") == (Span("same text"),)
    assert marked("x", "") == () and marked("", "x") == (Span("x", "differs"),)


def test_samples_hold_every_model_against_the_first():
    found = [
        {"prompt": "p", "original": "a b", "result": "a b"},
        {"prompt": "q", "original": "a b", "result": "a c"},
    ]
    same, other = samples_of(found)
    assert same.prompt == "p" and all(not s.style for _, words in same.columns for s in words)
    assert [s.text for s in dict(other.columns)["result"] if s.style] == ["c"]
    assert sameness(found).startswith("1 of 2 continuations of original and result")


def test_configurations_are_compared_below_their_keys():
    changes: dict[str, list[Any]] = {
        "a": [1, 2],
        "n": [{"x": 1, "y": 2}, {"x": 1}],
        "auto_map": [None, {"K": "m.C"}],
    }
    assert rows(config_table(changes, "")) == [
        ["a", "1", "2"],
        ["n.y", "2", "absent"],
        ["auto_map.K", "absent", '"m.C"'],
    ]


def test_every_figure_has_a_row_and_every_form_a_column():
    forms: dict[str, dict[str, Any]] = {
        "stock": {"kl": {"max": 1.5}, "ok": True, "why": None, "bad": []},
        "graft": {"kl": {"max": 2.5}, "keys": ["a", "b"]},
    }
    table = every_figure(forms)
    assert table.columns == ("figure", "stock", "graft")
    assert rows(table) == [
        ["kl.max", "1.5", "2.5"],
        ["ok", "yes", "–"],
        ["why", "–", "–"],
        ["bad", "none", "–"],
        ["keys", "–", "a, b"],
    ]


def test_svg_keeps_its_picture_and_loses_what_could_act():
    svg = (
        f"<svg {SVG} width='10pt' height='5pt' onload='x()'><metadata>m</metadata>"
        "<style>*{stroke-linejoin: round}</style><script>alert(1)</script>"
        "<defs><path id='p' d='M0 0'/></defs><use xlink:href='#p'/><use xlink:href='http://x/y'/>"
        "<g clip-path='url(#p)' fill='url(http://x/y)'/><a href='javascript:x()'/>"
        "<image xlink:href='data:image/png;base64,AA'/>"
        "<foreignObject><b xmlns='http://www.w3.org/1999/xhtml'>b</b></foreignObject></svg>"
    )
    made = safe_svg(svg, "one")
    assert 'id="one-p"' in made and 'href="#one-p"' in made and "url(#one-p)" in made
    assert 'viewBox="0 0 10 5"' in made and 'style="stroke-linejoin: round"' in made
    assert "data:image/png;base64,AA" in made
    for gone in (
        "script",
        "onload",
        "metadata",
        "<style",
        "http://x",
        "javascript",
        "foreign",
        "<b",
    ):
        assert gone not in made
    assert "xmlns" not in made and ":svg" not in made


@pytest.mark.parametrize("text", ["<svg", "<html/>", ""])
def test_what_is_no_svg_is_refused(text):
    with pytest.raises(ValueError, match="not SVG"):
        safe_svg(text, "x")


def test_code_blocks_compare_by_value():
    assert Code("a", "b") == Code("a", "b")
