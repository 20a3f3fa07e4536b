"""What a card keeps of what was there: the source's card, a section of ours, a person's edits."""

import pytest
import yaml

from normsurgery.errors import UsageError
from normsurgery.report import card_values
from normsurgery.report.card import card_record, model_card, renewed_card
from normsurgery.report.card_parts import BEGIN, END, WHERE, at_home, parts_of
from normsurgery.report.front_matter import split
from normsurgery.report.template import shipped_template
from tests.report import documents

INDEX = """model-index:
- name: pythia
  results:
  - task: {type: text-generation}
    dataset: {type: lambada, name: LAMBADA}
    metrics: [{type: accuracy, value: 0.31}]
"""
KEYS = "license: apache-2.0  # theirs\npipeline_tag: text-generation\n"
SOURCE = f"---\n{KEYS}{INDEX}---\n# Pythia\n\nWords.\n"
RESULTS_KEPT = "they are left there"
RESULTS_GONE = "they are left out"


def made(document=None, source=None, notes=(), **options):
    return model_card(document or documents.convert_document(), source, notes=notes, **options)


def papers(document=None, source=None, notes=()):
    document = document or documents.convert_document()
    return {**document, "card": card_record(document, source, notes)}


def renewed(document, card, template=None):
    return renewed_card(document, card, template or shipped_template())


def front(card):
    return yaml.safe_load(split(card)[0])


def local(document):
    """The same surgery of a directory."""
    return {**document, "source": {**document["source"], "revision": None}}


DOCUMENTS = {
    "convert": documents.convert_document,
    "prune": documents.prune_document,
    "fold": documents.fold_document,
    "remove-ln": documents.remove_ln_document,
    "heal": documents.heal_document,
}


@pytest.mark.parametrize(
    "source", [None, SOURCE, "# No front matter\n"], ids=["none", "full", "bare"]
)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_card_that_nobody_touched_is_rendered_again_to_the_same_bytes(name, source):
    document = DOCUMENTS[name]()
    card = made(document, source, ["a note"])
    assert renewed(papers(document, source, ["a note"]), card) == card
    assert "* a note" in card


def test_what_a_person_wrote_stays_around_the_new_section():
    card = made(source=SOURCE)
    edited = (
        card.replace("license: apache-2.0  # theirs", "license: mit  # mine")
        .replace("base_model_relation: finetune", "base_model_relation: merge")
        .replace("---\n\n" + BEGIN, "language: en\n---\n\n![badge](b.png)\n\n" + BEGIN)
        .replace("Words.", "Words, and mine.")
        .replace("## What was done", "## Mine, in the middle")
    )
    again = renewed(papers(source=SOURCE), edited, "# {{ heading }}: {{ licence.id }}\n")
    assert again.endswith("\n# Pythia\n\nWords, and mine.\n")
    assert "![badge](b.png)" in again.split(BEGIN)[0] and "license: mit  # mine\n" in again
    assert front(again)["base_model_relation"] == "merge" and front(again)["language"] == "en"
    assert parts_of(split(again)[1]).ours == "# pythia-160m with RMSNorm: mit"
    assert renewed(papers(source=SOURCE), again, "# {{ heading }}: {{ licence.id }}\n") == again


@pytest.mark.parametrize("there", [None, "", "# Mine\n", "---\nlicense: mit\n---\n# Mine\n"])
def test_a_card_without_a_section_gets_one_above(there):
    again = renewed(papers(), there)
    assert parts_of(split(again)[1]).ours is not None
    assert again.endswith("# Mine\n") == bool(there)
    assert renewed(papers(), again) == again


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_half_a_section_is_refused_and_a_source_with_one_is_kept(mark):
    cut = made(source=SOURCE).replace(mark, "")
    with pytest.raises(UsageError, match="one of the two marks"):
        renewed(papers(), cut)
    assert made(source=cut).count("# Pythia\n") == 1
    twice = made(source=SOURCE).replace(BEGIN, BEGIN + "\n" + BEGIN)
    with pytest.raises(UsageError, match="one of the two marks"):
        renewed(papers(), twice)


def test_surgery_on_a_result_keeps_the_older_section_as_history():
    first = made(documents.convert_document(), SOURCE, ["an old note"])
    second = made(local(documents.prune_document()), first)
    third = made(local(documents.heal_document()), second)
    assert third.count(BEGIN) == third.count(END) == 1
    heads = [line for line in third.split("\n") if line.startswith("## What was done before")]
    assert [head.partition(": ")[2] for head in heads][-1] == "pythia-160m with RMSNorm"
    assert len(heads) == 2 and third.index(heads[0]) > third.index(END)
    assert third.index("an old note") < third.index("\n# Pythia\n")
    assert third.count("<details>") == third.count("</details>")
    assert f"'{WHERE}'" not in third.split(END)[1]
    assert [line for line in third.split("\n") if line.startswith("# ")][1:] == ["# Pythia"]
    assert at_home(third, "me/mine").split(END)[1] == third.split(END)[1]


def test_tags_of_an_earlier_section_go_where_they_no_longer_hold():
    first = made(documents.convert_document(), "---\ntags: [pythia]\n---\n# P\n")
    assert front(first)["tags"] == ["pythia", "normsurgery", "rmsnorm", "custom_code"]
    document = local(documents.arrange_document())
    second = made(document, first)
    assert "custom_code" not in front(second)["tags"] and "pythia" in front(second)["tags"]
    assert front(second)["base_model"] == ["EleutherAI/pythia-160m"]
    theirs = made(document, "---\ntags: [custom_code]\n---\n# A class of its own\n")
    assert "custom_code" in front(theirs)["tags"]  # not ours to judge


@pytest.mark.parametrize(
    ("name", "kept"), [("convert", True), ("fold", True), ("prune", False), ("heal", False)]
)
def test_results_measured_on_the_source_stay_for_the_same_function_only(name, kept):
    document = DOCUMENTS[name]()
    card = made(document, SOURCE)
    assert ("model-index" in front(card)) == kept
    assert (RESULTS_KEPT in card, RESULTS_GONE in card) == (kept, not kept)
    plain = made(document, "# No results\n")
    assert RESULTS_KEPT not in plain and RESULTS_GONE not in plain
    own = card.replace("---\n", f"---\n{INDEX}", 1) if not kept else card
    again = renewed(papers(document, SOURCE), own)  # a person measured this model
    assert "model-index" in front(again)


BROKEN = "---\nlicense: cc-by-nd-4.0\nlicense_link: LICENSE\ntags: [a\nx: 'y\n---\n# Theirs\n"


def test_of_broken_front_matter_the_licence_is_kept_and_the_rest_is_shown():
    card = made(source=BROKEN)
    assert front(card)["license"] == "cc-by-nd-4.0" and front(card)["license_link"] == "LICENSE"
    assert card.endswith(BROKEN) and "no YAML that can be read" in card
    assert renewed(papers(source=BROKEN), card) == card
    assert "no YAML that can be read" not in made(source=SOURCE)


def test_windows_line_ends_in_the_front_matter():
    card = made(source="---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n# Theirs\r\n")
    assert front(card)["license"] == "mit" and front(card)["tags"][0] == "a"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("---\nlicense: mit\n---\n", "goes with it: mit."),
        (
            "---\nlicense: other\nlicense_name: acme-1\nlicense_link: LICENSE\n---\n",
            "goes with it: acme-1 (LICENSE).",
        ),
        ("# Nothing\n", "names no licence"),
    ],
)
def test_the_card_says_which_licence_goes_with_it(source, said):
    assert said in made(source=source)


def test_a_library_that_the_source_names_is_kept():
    assert front(made(source="---\nlibrary_name: timm\n---\n"))["library_name"] == "timm"
    assert front(made())["library_name"] == "transformers"


def test_the_heading_of_several_steps_names_each_and_norms_only_where_they_are():
    """Folded, converted and pruned: the class is the source's again, whose norms are LayerNorms."""
    document = {
        **documents.convert_document(),
        "folds": [{"name": "value-bias", "applies": True}],
        "blocks": {"before": 6, "after": 5},
        "steps": [{"surgery": "fold"}, {"surgery": "convert"}, {"surgery": "heal"}],
    }
    both = {**document["target"], "form": "stock", "modeling_file": True}
    alone = {**both, "architecture": document["source"]["architecture"], "modeling_file": False}
    said = "value-bias folded, 5 of 6 blocks, healed"
    heading = card_values._heading({**document, "target": both})
    assert heading.endswith(f" with RMSNorm, {said}")
    assert card_values._heading({**document, "target": alone}).endswith(f", {said}")
    assert card_values.norms_of({**document, "target": alone}, "after") == []
