"""The whole page: it says what the terminal says, it is well formed, and nothing in it can run."""

import copy
import re
from itertools import pairwise

import pytest

from normsurgery.report import render
from normsurgery.report.page.blocks import Figure, Heading, Line, Points, Table
from normsurgery.report.page.page import CHANGED, MISSING, FileState, Samples, recipe_yaml
from normsurgery.report.page.shapes import blocks_of
from tests.report import documents
from tests.report.page.pages import SHA, Read, page_of

SURGERIES = {
    name: getattr(documents, f"{name}_document")
    for name in (
        "convert", "arrange", "fold_bn", "fold", "recalibrate", "prune", "heal", "remove_ln",
    )
}  # fmt: skip
HOSTILE = "</td><script>alert(1)</script><img src=x onerror='alert(2)'>\"&lt;\x00\u202e\udc80"
# What a document says in words of a fixed list: another one would be refused, not shown.
FIXED = {"verdict", "contract", "form", "kind", "action", "export", "command", "taught_by"}


def recipe_document():
    """A recipe of two steps, as `run` writes it."""
    one, two = documents.prune_document(), documents.convert_document()
    steps = [
        {
            "step": n, "surgery": d["command"], "contract": d["verification"]["contract"],
            "source": d["source"], "verification": d["verification"], "proof": d.get("proof"),
        }
        for n, d in enumerate((one, two), 1)
    ]  # fmt: skip
    checked = [{"step": s["step"], "surgery": s["surgery"], **s["verification"]} for s in steps]
    whole = {**one, **two, "command": "run", "steps": steps}
    whole["verification"] = {"verdict": "pass", "contract": "lossy", "steps": checked}
    whole["recipe"] = {"source": "a/b@c", "steps": [{"surgery": "prune", "drop": "2"}], "seed": 0}
    whole.pop("proof")
    return whole


def said(blocks):
    """Every piece of text in blocks."""
    for block in blocks:
        if isinstance(block, Table):
            cells = [words for row in block.rows for words in row]
            yield from (column for column in block.columns if column)
        else:
            cells = list(block.items) if isinstance(block, Points) else []
            cells += [block.words] if isinstance(block, Line) else []
        if isinstance(block, Heading):
            yield block.text
        yield from ("".join(span.text for span in words) for words in cells)


@pytest.mark.parametrize("name", [*SURGERIES, "recipe"])
def test_the_page_says_all_that_the_terminal_says(name):
    document = SURGERIES[name]() if name in SURGERIES else recipe_document()
    text = Read(page_of(document)).text
    parts = render(document)
    # The page has a title of its own, its samples are marked word by word, and it costs no time.
    told = [" ".join(piece.split()) for piece in said(blocks_of(parts[1:-1]))]
    shown = {str(value).strip() for one in document.get("samples") or () for value in one.values()}
    cut = ("…", " more", "the 12 worst", "the best ", "from_pretrained(")
    missing = [
        piece for piece in told
        if piece and piece not in text and piece not in shown
        and not any(word in piece for word in cut)
    ]  # fmt: skip
    assert set(missing) <= {"Samples (greedy)"}
    assert len(told) > 20


@pytest.mark.parametrize("name", [*SURGERIES, "recipe"])
def test_the_page_loads_and_runs_nothing(name):
    document = SURGERIES[name]() if name in SURGERIES else recipe_document()
    page = page_of(document)
    read = Read(page)
    assert not {"script", "link", "iframe", "object", "img", "base"} & {tag for tag, _ in read.tags}
    assert read.values("src", "srcset", "data", "poster", "background") == []
    outside = [href for href in read.values("href") if not href.startswith("#")]
    assert all(href.startswith("https://huggingface.co/") for href in outside)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_contents_headings_and_ids_fit_together():
    read = Read(page_of(SURGERIES["prune"]()))
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    targets = [href[1:] for href in read.values("href") if href.startswith("#")]
    assert len(targets) > 6 and set(targets) <= set(ids)
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def poisoned(value, key=""):
    """The document with something hostile in every text that may hold anything."""
    if isinstance(value, dict):
        return {name: poisoned(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner, key) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) and key not in FIXED else value


@pytest.mark.parametrize("name", [*SURGERIES, "recipe"])
def test_hostile_text_stays_text(name):
    document = SURGERIES[name]() if name in SURGERIES else recipe_document()
    wicked = {key: poisoned(value, key) for key, value in document.items()}
    wicked["receipts"] = [
        {**one, "names": {"changed": [HOSTILE]}, "parameters": {HOSTILE: HOSTILE}}
        for one in document["receipts"]
    ]
    wicked["config_diff"] = {HOSTILE: [HOSTILE, {HOSTILE: 1}]}
    wicked["target"] = {**document["target"], "why": HOSTILE}
    samples = Samples([{"prompt": HOSTILE, "original": HOSTILE, HOSTILE: HOSTILE}], HOSTILE)
    page = page_of(wicked, name=HOSTILE, stray=[HOSTILE], samples=samples)
    page.encode("utf-8")
    read = Read(page)
    names = {tag for tag, _ in read.tags}
    assert not {"script", "img"} & names
    assert not [key for _, attributes in read.tags for key in attributes if key.startswith("on")]
    assert "\x00" not in page and "\u202e" not in page
    assert read.text.count("<script>alert(1)</script>") > 10
    assert all("<" not in href and '"' not in href for href in read.values("href"))


def test_files_that_changed_stand_in_red_at_the_top():
    document = SURGERIES["convert"]()
    files = [FileState("config.json", SHA, CHANGED), FileState("a.safetensors", SHA, MISSING)]
    page = page_of(document, files=files)
    text = Read(page).text
    assert "This page describes files that are no longer there. config.json (changed), " in text
    assert 'class="alert" role="alert"' in page and text.index("no longer") < text.index("Contents")
    assert "Files as recorded 0 of 2" in text
    assert "no longer there" not in page_of(document)


@pytest.mark.parametrize(("verdict", "words"), [("skipped", "Not verified."), ("fail", "failed.")])
def test_a_verdict_that_is_no_pass_is_an_alert(verdict, words):
    document = SURGERIES["convert"]()
    if verdict == "skipped":
        document["verification"] = {"verdict": "skipped", "contract": "exact"}
    else:
        document["verification"] = documents.verification("fail", 9.0)
    assert words in Read(page_of(document)).text


def test_the_receipts_can_be_copied():
    document = recipe_document()
    text = Read(page_of(document)).text
    assert SHA in text and "not looked at" in text
    assert "normsurgery run out/surgery.json --set output=out-again" in text
    import yaml

    assert yaml.safe_load(recipe_yaml(document["recipe"])) == document["recipe"]


def test_the_difference_of_the_configuration_is_shown_key_by_key():
    document = SURGERIES["convert"]()
    assert "does not record" in Read(page_of(document)).text
    document["config_diff"] = {}
    assert "Not one key differs" in Read(page_of(document)).text
    document["config_diff"] = {
        "text_config": [{"eps": 1, "equal_key": 2}, {"eps": 3, "equal_key": 2}]
    }
    text = Read(page_of(document)).text
    assert "text_config.eps 1 3" in text and "equal_key" not in text


def test_names_of_tensors_stand_behind_a_line_that_opens():
    document = SURGERIES["convert"]()
    document["receipts"][0]["names"] = {"changed": ["h.{0-3}.w"], "added": [], "dropped": []}
    page = page_of(document)
    details = page[page.index("<details>") : page.index("</details>")]
    assert "h.{0-3}.w" in details and "dropped:" not in details


def test_tables_that_a_terminal_cuts_are_whole():
    document = SURGERIES["remove_ln"]()
    event = {"action": "remove", "paths": ["x.ln"]}
    document["events"] = [{**event, "step": 1000 + i} for i in range(60)]
    text = Read(page_of(document)).text
    assert all(f"{1000 + i:,} x.ln" in text for i in range(60))


def test_a_picture_has_its_words_beside_it():
    figure = Figure("losses", "Losses", "What it shows.", '<svg viewBox="0 0 1 1"></svg>')
    page = page_of(SURGERIES["convert"](), figures=[figure])
    assert 'role="img" aria-label="What it shows."' in page and figure.svg in page
    bare = page_of(SURGERIES["convert"](), remark="No pictures: pip install it.")
    assert "No pictures: pip install it." in Read(bare).text


def test_the_same_content_gives_the_same_page():
    assert page_of(SURGERIES["prune"]()) == page_of(copy.deepcopy(SURGERIES["prune"]()))
