"""The report and the card of a model without norms, and what is shown while it trains."""

import io
from typing import Any

import pytest
from rich.console import Console

from normsurgery.report import render
from normsurgery.report.card import model_card
from normsurgery.report.removal import event_text, left_line, live_line, rate
from tests.report import documents


def shown(document, width=110):
    written = io.StringIO()
    console = Console(file=written, width=width)
    for part in render(document):
        console.print(part)
    return written.getvalue()


def card(document):
    return model_card(document, None, notes=["a note"])


def test_the_head_says_what_goes_and_by_which_schedule():
    text = shown(documents.remove_ln_document())
    assert "removes        3 mlp, 3 qk, 3 v, 1 final" in text
    assert "auto: 200 steps, learning rate 6e-4 → 1.2e-5, 2,048 tokens a step" in text
    assert "norms          7 LayerNorm → none" in text


def test_report_and_card_name_the_teacher():
    document = documents.remove_ln_document()
    assert "teacher" not in shown(document)
    document["taught_by"] = "control"
    document["schedule"] |= {"ce": [0.5, 0.5], "kl": [0.0, 0.5], "kl_rows": 0.25}
    said = "the control: KL 0→0.5 beside cross-entropy 0.5, on 25 % of the rows"
    assert f"teacher        {said}" in shown(document)
    assert f"Teacher: {said}" in card(document)


def test_every_path_has_its_scale_and_its_step():
    text = shown(documents.remove_ln_document())
    line = next(line for line in text.splitlines() if "layers.1.input_layernorm:v" in line
                and "1.01" in line)  # fmt: skip
    assert line.split()[1:] == ["8.5", "47", "90", "1.01"]  # no end token: no column


def test_the_plan_lists_the_events_and_cuts_a_long_list():
    document = documents.remove_ln_document()
    assert "the scale of position 0 merges" in shown(document)
    document["events"] = [
        {"step": i, "action": "remove", "paths": [f"h.{i}.ln"]} for i in range(60)
    ]
    text = shown(document)
    assert "36 more" in text and "h.11.ln" in text and "h.12.ln" not in text and "h.59.ln" in text


def test_repeated_names_are_folded():
    event = {"action": "remove", "paths": ["h.0.ln", "h.1.ln", "h.2.ln"]}
    assert event_text(event) == "h.{0-2}.ln"
    assert left_line({"a.0.n": "why", "a.1.n": "why", "b": "else"}) == "a.{0,1}.n (why); b (else)"


def test_losses_of_all_three_models_stand_beside_each_other():
    text = shown(documents.remove_ln_document())
    for name in ("original", "control", "result"):
        assert sum(line.split()[:1] == [name] for line in text.splitlines()) >= 2
    assert "won back" not in text


def test_a_retry_is_told():
    assert "retries     2" in shown(documents.remove_ln_document())


def test_a_preview_says_that_nothing_was_written_and_what_each_path_adds():
    text = shown(documents.remove_ln_preview_document())
    assert "nothing written (preview)" in text and "NOT verified" not in text
    alone = text[text.index("One path removed alone") :].splitlines()
    assert alone[2].split() == ["gpt_neox.final_layer_norm", "3.0900", "+0.0900"]  # worst first
    assert "contract" not in text


@pytest.mark.parametrize(("value", "text"), [(6e-4, "6e-4"), (1.25e-5, "1.25e-5"), (1.0, "1e0")])
def test_rates_are_exact(value, text):
    assert rate(value) == text


def test_the_card_says_what_went_how_and_what_was_never_shown():
    text = card(documents.remove_ln_document())
    assert "# pythia-160m without norms" in text
    assert "No norm module and no norm parameter is left" in text
    assert "Removed: 3 mlp, 3 qk, 3 v, 1 final." in text
    assert "Control (the untouched model with the same training): trained" in text
    assert "10,051 of 50,254 tokens of the vocabulary (20.0 %) never occurred" in text
    assert "Petertodd" in text and "`x`" not in text  # a token cannot start code
    assert "normsurgery remove-ln EleutherAI/pythia-160m -o OUT --finetune" in text
    assert "trust_remote_code=True" in text and "Nothing bounds the scale" in text
    assert "lost depth" not in text  # that is for prune


def test_the_card_of_a_stock_result_explains_its_epsilon():
    document = documents.remove_ln_document()
    document |= {"export": "stock"}
    document["target"] |= {"form": "stock", "modeling_file": False}
    text = card(document)
    assert "beside which every variance vanishes" in text and "trust_remote_code" not in text


def test_the_card_of_a_partial_result_says_so():
    document = documents.remove_ln_document() | {"export": "partial"}
    text = card(document)
    assert "# pythia-160m with some norms removed" in text and "some are left" in text


def test_the_card_without_training_says_that_too():
    document = documents.remove_ln_document()
    for key in ("training", "control"):
        del document[key]
    assert "nothing was trained" in card(document)


def test_other_surgeries_have_none_of_it():
    assert "Which norms went" not in card(documents.heal_document())
    assert "lost depth" in card(documents.prune_document())


LIVE: dict[str, Any] = {
    "step": 10, "steps": 200, "last": "h.0.ln_2", "loss": 3.14159, "drift": 1.02,
    "seconds_left": 61.0,
}  # fmt: skip


def test_a_line_of_the_run():
    assert live_line(LIVE) == (
        "step 10 of 200 · removed last h.0.ln_2 · loss 3.1416 · σ drift 1.02 · ETA 1 min 01 s"
    )
    assert live_line({**LIVE, "last": "", "seconds_left": None}).count("–") == 2
