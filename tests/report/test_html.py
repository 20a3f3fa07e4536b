"""Results in a notebook: the terminal's report, with every text escaped."""

import html
import re

import pytest

import normsurgery
from normsurgery.api.result import Result
from normsurgery.api.run import RunResult
from normsurgery.recipe import Recipe
from normsurgery.report.html import WIDTH, html_report
from tests.report import documents
from tests.report.test_render import shown

MAKERS = [
    documents.convert_document,
    documents.fold_bn_document,
    documents.fold_document,
    documents.heal_document,
    documents.inspect_document,
    documents.plan_document,
    documents.prune_document,
    documents.remove_ln_document,
    documents.verify_document,
]


def text_of(page):
    """What a browser shows of it."""
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def lines_of(text):
    return [line.rstrip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("make", MAKERS)
def test_it_shows_what_the_terminal_shows(make):
    page = html_report(make())
    assert lines_of(text_of(page)) == lines_of(shown(make(), width=WIDTH))
    assert page.startswith("<pre") and page.count("<pre") == page.count("</pre>") == 1


def test_a_verdict_has_its_colour():
    passed, failed = (html_report(documents.verify_document(v)) for v in ("pass", "fail"))
    green = re.search(r'<span style="color: #008000[^"]*">pass</span>', passed)
    red = re.search(r'<span style="color: #800000[^"]*">fail</span>', failed)
    assert green and red


def test_names_cannot_add_elements():
    document = documents.convert_document()
    document["source"]["model"] = "<img src=x onerror=alert(1)>&amp;"
    document["notes"] = ["</pre><script>alert(2)</script>"]
    page = html_report(document)
    assert set(re.findall(r"<\s*/?\s*(\w+)", page)) == {"pre", "span"}
    assert "<img src=x onerror=alert(1)>&amp;" in text_of(page)


@pytest.mark.parametrize("name", [x for x in normsurgery._HOME_OF if x.endswith("Result")])
def test_every_result_has_it(name):
    assert callable(getattr(getattr(normsurgery, name), "_repr_html_", None))


def test_a_result_is_shown_as_its_document():
    document = documents.convert_document()
    assert Result(document)._repr_html_() == html_report(document)
    recipe = Recipe("gpt2", "out", (), {})
    run = RunResult(document, recipe)
    assert run._repr_html_() == html_report(run.to_dict())


def test_nothing_is_printed(capsys):
    Result(documents.inspect_document())._repr_html_()
    assert capsys.readouterr() == ("", "")
