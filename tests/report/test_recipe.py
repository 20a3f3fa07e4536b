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


def planned():
    document = documents.plan_document()
    options = {"what": ["norm", "rotate"], "untie": False, "dtype": None}
    plan = {"step": 1, "surgery": "fold", "places": [0, 1], "options": options, "said": ["what"]}
    where = {"contract": "exact", "source": "gpt2", "output": "step 1"}
    later = {"step": 2, "surgery": "prune", "places": [2], "options": {"drop": 3}, "said": ["drop"]}
    document["steps"] = [{**plan, **where}, {**later, **where, "contract": "lossy"}]
    whole = {"passes": 2, "disk_needed": 5_000_000, "disk_free": 9_000_000, "output": "out"}
    return {**document, "whole": whole}


def test_a_plan_names_every_option_and_what_is_one_pass():
    text = shown(planned())
    assert "Step 1: fold (steps.0 and steps.1 in one pass)" in text
    assert row(text, "what") == ["norm,", "rotate"] and row(text, "drop") == ["3"]
    first, second = text.split("Step 2: prune")
    assert row(first, "defaults") == ["untie:", "false,", "dtype:", "null"]
    assert row(second, "defaults") == ["none"]
    assert row(text, "from → to") == ["gpt2", "→", "step", "1"]
    assert "what stands below is of step 1" in text


def test_a_plan_begins_with_all_steps_and_what_they_come_to():
    text = shown(planned())
    assert row(text, "2     prune") == ["2", "lossy"]
    assert row(text, "contract") == ["exact,", "lossy"]  # of all, at the head
    assert "2; out appears when all steps are verified" in text
    assert "about 5.0 MB needed at the peak, 9.0 MB free" in text
    short = planned()
    short["whole"]["disk_free"] = 1_000_000
    assert "1.0 MB free: NOT ENOUGH" in shown(short)


def test_where_a_result_went_or_would_go_stands_at_the_end():
    document = planned()
    push = {"repository": "a/b", "revision": "main", "private": False, "message": "Two"}
    document["push"] = {**push, "dry_run": True, "create_pr": True, "unverified": True}
    text = shown(document)
    assert row(text, "to ") == ["a/b"] and row(text, "visible") == ["to", "everyone"]
    assert row(text, "message") == ["Two"] and "as a pull request" in text
    assert "or not: the card says so" in text
    done = {"dry_run": False, "pull_request": None, "unchanged": True, "url": "http://hub/a/b"}
    text = shown({**documents.convert_document(), "push": {**push, **done}})
    assert row(text, "what") == ["nothing", "has", "changed", "there"] and "http://hub/a/b" in text
