"""`--plots`: pictures lie in the output with their hashes, and the card shows them."""

from __future__ import annotations

import json
import sys
from shutil import copytree

import pytest

import normsurgery
from normsurgery import UsageError
from normsurgery.api.chain import run_chain
from normsurgery.api.plotting import drawn
from normsurgery.checkpoint import hash_files
from normsurgery.hub.outputs import check_unchanged, read_output
from normsurgery.recipe import Recipe, RecipeStep
from normsurgery.report.progress import Silent
from tests.plots import documents
from tests.report import documents as reported

pytest.importorskip("matplotlib")
FILES = ["plots/kurtosis.png", "plots/kurtosis.svg"]


@pytest.fixture(scope="module")
def rotated(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("plots") / "out"
    result = normsurgery.fold(trained, out, what=["norm", "rotate"], untie=True, plots=True)
    return out, result.to_dict()


def test_pictures_lie_in_the_output_with_their_hashes_and_push_knows_them(rotated):
    out, document = rotated
    assert sorted(f"plots/{path.name}" for path in (out / "plots").iterdir()) == FILES
    papers = json.loads((out / "surgery.json").read_text())
    for name in FILES:
        (record,) = hash_files([out / name])
        assert papers["files"]["result"][name] == record.sha256
    assert papers["plots"] == document["plots"]
    found = read_output(out)
    assert set(FILES) <= set(found.names) and found.left == {}
    check_unchanged(found, Silent())
    (out / FILES[0]).rename(out / "kept.png")
    with pytest.raises(normsurgery.SurgeryError, match=r"kurtosis\.png is missing"):
        read_output(out)
    (out / "kept.png").rename(out / FILES[0])


def test_the_card_shows_them_under_a_heading(rotated):
    out, document = rotated
    card = (out / "README.md").read_text()
    (entry,) = document["plots"]
    assert entry["name"] == "kurtosis" and entry["caption"] in card.replace("\\", "")
    assert card.index("## In pictures") < card.index("](plots/kurtosis.png)")
    assert card.index("](plots/kurtosis.png)") < card.index("## Verification")


def test_the_recipe_of_a_result_draws_the_same_bytes(rotated, trained, tmp_path):
    out, _ = rotated
    overrides = [f"output={tmp_path / 'again'}", f"source={trained}"]
    normsurgery.run(out / "surgery.json", overrides=overrides)
    for name in (*FILES, "surgery.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_steps_of_a_recipe_show_the_pictures_of_those_before(trained, tmp_path):
    """Steps that write what a step writes, without a model: what counts is what is made of it."""

    def call(step, source, target, *, overwrite):
        papers = {
            **reported.convert_document(), **documents.statistics(),
            "recipe": {"verify": True, "steps": [step.to_dict()]},
            "files": {"source": {}, "result": {}}, "card": {"not_guaranteed": []},
        }  # fmt: skip
        copytree(source, target)  # the next one carries over what lies beside the weights
        papers["plots"], _ = drawn(papers, target)
        (target / "surgery.json").write_text(json.dumps(papers))
        return papers

    steps = [RecipeStep("convert", {})] * 2
    recipe = Recipe(str(trained), str(tmp_path / "out"), tuple(steps), {})
    document = run_chain(recipe, [[step] for step in steps], call)
    names = ["scales", "scales-2"]
    assert [one["name"] for one in document["plots"]] == names
    card = (tmp_path / "out" / "README.md").read_text()
    for number, name in enumerate(names, 1):
        assert card.index(f"**Step {number}: Frozen") < card.index(f"](plots/{name}.png)")
        assert (tmp_path / "out" / "plots" / f"{name}.png").is_file()


def test_a_name_that_the_source_has_taken_gets_a_number(tmp_path):
    document = documents.losses("prose")
    (first,), _ = drawn(document, tmp_path)
    taken = (tmp_path / "plots" / "losses.png").read_bytes()
    (second,), records = drawn(documents.losses("drama"), tmp_path)
    assert (first["name"], second["name"]) == ("losses", "losses-2")
    assert [one.name for one in records] == ["plots/losses-2.png", "plots/losses-2.svg"]
    assert (tmp_path / "plots" / "losses.png").read_bytes() == taken


def test_where_nothing_can_be_drawn_nothing_is(tmp_path):
    assert drawn({}, tmp_path) == ([], []) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "surgery, options",
    [
        ("fold", {"what": "rotate", "plots": True}),
        ("prune", {"drop": 1, "plots": True}),
        ("prune", {"drop": 1, "explain": True}),
        ("heal", {"teacher": "nowhere", "plots": True}),
        ("remove_ln", {"one_shot": True, "plots": True}),
    ],
)
def test_without_matplotlib_nothing_is_even_opened(surgery, options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="need matplotlib") as raised:
        getattr(normsurgery, surgery)("no/such model", tmp_path / "out", **options)
    assert raised.value.hint == "pip install 'normsurgery[plots]'"


def test_a_preview_has_no_output_to_draw_into(tmp_path):
    with pytest.raises(UsageError, match="a preview writes none"):
        normsurgery.remove_ln("no/such model", tmp_path / "out", plots=True)
