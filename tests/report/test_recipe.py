"""A recipe of several steps: its plan, its report and its card, each with every step told apart."""

from normsurgery.report.card import model_card
from tests.report import documents
from tests.report.test_render import row, shown


def two_steps():
    document = documents.convert_document()
    first, second = document["verification"], documents.verify_document()["verification"]
    second = {**second, "contract": "lossy"}
    document["steps"] = [
        {"step": 1, "surgery": "convert", "contract": "exact", "verification": first},
        {"step": 2, "surgery": "prune", "contract": "lossy", "verification": second},
    ]
    ours = [
        {"step": 1, "surgery": "convert", **first},
        {"step": 2, "surgery": "prune", **second},
    ]
    document["verification"] = {"verdict": "pass", "contract": "lossy", "steps": ours}
    return {**document, "command": "run"}


def test_every_step_has_its_own_figures():
    text = shown(two_steps())
    assert row(text, "2     prune") == ["2", "lossy", "pass"]
    first, second = text.split("Step 2 (prune), against what it was given")
    assert row(first[first.index("Step 1 (convert)") :], "check") == ["stock", "graft", "allowed"]
    assert row(second, "logits, float16 (× noise floor)")[-1] == "–"  # lossy: not judged


def test_a_card_says_what_each_step_was_held_against():
    card = model_card(two_steps(), None, notes=[])
    first, second = card.split("### Step 2: `prune`, held against what step 1 made")
    assert "### Step 1: `convert`, held against the source" in first
    assert "Measured on the saved files against what step 1 made" in second
    assert "(a lossy result is held to loading cleanly" in second


def test_a_plan_names_every_option_and_what_is_one_pass():
    document = documents.plan_document()
    options = {"what": ["norm", "rotate"], "untie": False, "dtype": None}
    plan = {"step": 1, "surgery": "fold", "places": [0, 1], "options": options}
    where = {"contract": "exact", "source": "gpt2", "output": "step 1"}
    later = {"step": 2, "surgery": "prune", "places": [2], "options": {"drop": 3}}
    document["steps"] = [{**plan, **where}, {**later, **where, "contract": "lossy"}]
    text = shown(document)
    assert "Step 1: fold (steps.0 and steps.1 in one pass)" in text
    assert row(text, "what") == ["norm,", "rotate"] and row(text, "drop") == ["3"]
    assert (row(text, "untie"), row(text, "dtype")) == (["false"], ["null"])
    assert row(text, "from → to") == ["gpt2", "→", "step", "1"]
    assert "what stands below is of step 1" in text
