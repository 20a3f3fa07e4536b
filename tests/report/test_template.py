"""The template of the card as a person edits it."""

import re

import pytest

from normsurgery.errors import UsageError
from normsurgery.report.card_values import card_values
from normsurgery.report.template import rendered, shipped_template
from tests.report import documents

VALUES = {"heading": "A model", "source": {"model": None, "revision": "abc"}, "rows": [["a", 1]]}

DOCUMENTS = {
    name: make
    for name, make in vars(documents).items()
    if name.endswith("_document")
    and name.split("_")[0] in ("convert", "prune", "arrange", "heal", "fold", "remove")
    and name != "remove_ln_preview_document"
}


def refused(text, values=VALUES):
    with pytest.raises(UsageError) as refusal:
        rendered(text, values, "mine.md")
    return refusal.value


def test_every_name_of_the_comment_exists_and_every_name_is_in_it():
    comment = shipped_template().partition("#}")[0]
    table = comment.partition("  heading ")[2].partition("  Filters:")[0]
    named = set(re.findall(r"^  (\w+) ", f"  heading {table}", re.M))
    values = card_values(documents.convert_document(), {})
    assert named == set(values)


@pytest.mark.parametrize("name", ["source", "target", "receipts", "loading", "licence",
                                  "source_card", "verification"])  # fmt: skip
def test_the_fields_that_the_comment_names_are_those_of_the_values(name):
    comment = shipped_template().partition("#}")[0]
    said = re.search(rf"^  {name} .*(?:\n {{10,}}.*)*", comment, re.M)
    assert said is not None
    value = card_values(documents.convert_document(), {})[name]
    one = value[0] if isinstance(value, list) else value
    assert set(re.findall(r"\.(\w+)", said[0])) == set(one)


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("a\n\n{{ heding }}\n", 3, "no variable heding", "did you mean heading?"),
        ("{% if false %}\n{{ heding }}\n{% endif %}\n", 2, "no variable heding", "heading"),
        ("\n{{ source.modle }}\n", 2, "'modle' is not in it; did you mean model?", ""),
        ("a\n{{ source.zzz }}\n", 2, "there are model, revision", ""),
        ("a\n{{ heading | upcase }}\n", 2, "No filter named 'upcase'", ""),
        ("a\n{% for x in rows %}\n{{ x }}\n", 3, "Unexpected end of template", ""),
        ("\n\n{{ 1 / 0 }}", 3, "division by zero", ""),
        ("\n{{ rows.append(1) }}", 2, "is unsafe", ""),
        ("\n{{ heading.__class__.__mro__ }}", 2, "access to attribute '__class__'", ""),
        ("\n{% include '/etc/passwd' %}", 2, "loader", ""),
        ("\n{{ heading + 1 }}", 2, "concatenate", ""),
    ],
)
def test_a_mistake_is_refused_with_its_line(text, line, message, hint):
    error = refused(text)
    assert error.message.startswith(f"mine.md, line {line}: ")
    assert message in error.message and hint in error.hint and "--print-template" in error.hint


def test_a_name_that_the_template_makes_itself_is_no_mistake():
    text = "{% set a = heading %}{% if a %}{% set b = a %}{{ b }}{% endif %}"
    assert rendered(text, VALUES) == "A model"


def test_blocks_that_say_nothing_leave_no_blank_lines_but_code_keeps_its_own():
    text = "\n\na\n{% if false %}\nb\n{% endif %}\n\n\n\nc\n```\nx\n\n\ny\n```\n\n\n"
    assert rendered(text, {}) == "a\n\nc\n```\nx\n\n\ny\n```"


def test_filters_keep_a_name_from_starting_anything():
    values = {"name": "<img>|*x*\n"}
    assert rendered("{{ [name, 1] | row }}\n{{ [1, 2] | rule }}", values) == (
        "| &lt;img>\\|*x* | 1 |\n| --- | --- |"
    )
    assert rendered("{{ name | cell }} {{ name | literal }}", values) == (
        "&lt;img>|*x* &lt;img>|\\*x\\*"
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_shipped_template_leaves_no_mark_of_its_language_and_no_table_is_torn(name):
    document = DOCUMENTS[name]()
    text = rendered(shipped_template(), card_values(document, {"license": "mit"}))
    assert "{%" not in text and "{{" not in text and "\n\n\n" not in text
    lines = text.split("\n")
    for before, line in zip(lines, lines[1:], strict=False):
        if re.fullmatch(r"\|( ?---+ ?\|)+", line):
            assert before.count("|") - before.count("\\|") == line.count("|")
    assert [line for line in lines if line.startswith("# ")] == [lines[0]]
    assert text.count("<details>") == text.count("</details>")


def test_a_long_table_is_behind_a_click():
    text = shipped_template().partition("{% set said")[0]
    many = rendered(text + "{{ long(['a'], rows, 'The <rows>') }}", {"rows": [["x"]] * 13})
    assert many.startswith("<details>\n<summary>The") and many.endswith("| x |\n\n</details>")
    assert rendered(text + "{{ long(['a'], rows, 'R') }}", {"rows": [["x"]] * 12}).startswith("| a")
