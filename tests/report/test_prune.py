"""What a surgery on depth adds to reports and cards."""

from __future__ import annotations

import pytest

from normsurgery.report.card import model_card
from normsurgery.report.prune import blocks_line, ranges, won_back
from tests.report import documents
from tests.report.test_render import row, shown


def under(text: str, heading: str) -> str:
    """The lines of one section."""
    lines = text[text.index(f"\n{heading}") + 1 :].split("\n\n")[0]
    return lines + "\n"


def limits(document):
    return model_card(document, None, notes=[]).partition("## What is not guaranteed")[2]


def test_the_head_says_which_blocks_went_and_what_chose_them():
    text = shown(documents.prune_document())
    assert "12 → 9 of gpt_neox.layers, without 5-7" in text and "in the order" not in text
    assert row(text, "chosen by") == ["angular"]
    assert row(text, "calibrated on") == "sample:prose, 50,048 tokens in 391 rows".split()
    assert "Load it" in text and "trust_remote_code" not in text


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        ([0, 1, 2, 7], "0-2, 7"),
        ([3], "3"),
        ([2, 1, 0], "2, 1, 0"),
        ([0, 1, "zero", 2, 3, 2, 3], "0-1, zero, 2-3, 2-3"),
        ([], ""),
    ],
)
def test_runs_of_blocks_are_spans(blocks, line):
    assert ranges(blocks) == line


def test_an_order_that_is_not_the_plain_one_is_shown():
    blocks = {"before": 4, "after": 5, "dropped": [], "order": [0, 1, "zero", 2, 3], "stack": "h"}
    assert blocks_line(blocks) == "4 → 5 of h, in the order 0-1, zero, 2-3"
    assert (
        blocks_line({"before": 3, "after": 2, "dropped": [2], "order": [0, 1]})
        == "3 → 2, without 2"
    )


def test_the_best_windows_are_shown_best_first_and_the_dropped_one_is_marked():
    text = under(shown(documents.prune_document()), "Scores")
    first = [line.split()[0] for line in text.splitlines()[2:-1]]
    assert first == ["5-7", "4-6", "6-8", "3-5", "7-9"]
    assert row(text, "5-7") == ["0.05", "0.45", "←", "dropped"]
    assert text.count("dropped") == 1
    assert "the best 5 of 10" in text


def test_explain_shows_every_window_in_order_and_a_missing_figure_as_such():
    document = documents.prune_document()
    document["explain"] = True
    document["scores"][9]["fit"] = None
    text = under(shown(document), "Scores")
    assert [line.split()[0] for line in text.splitlines()[2:]] == [
        f"{i}-{i + 2}" for i in range(10)
    ]
    assert row(text, "9-11") == ["0.45", "–"]
    assert row(text, "blocks") == ["angular", "fit"]


def test_blocks_that_were_dropped_one_by_one_are_all_marked():
    document = documents.prune_document()
    document["scores"] = [{"blocks": [i], "angular": i / 10} for i in range(12)]
    document["blocks"]["dropped"] = [7, 2, 4]
    document["explain"] = True
    text = shown(document)
    marked = [line.split()[0] for line in text.splitlines() if line.endswith("← dropped")]
    assert marked == ["2", "4", "7"]
    assert "without 2, 4, 7" in text


def test_a_score_that_is_absent_everywhere_does_not_choose():
    document = documents.prune_document()
    document["method"] = "last"
    assert len(under(shown(document), "Scores").splitlines()) == 2 + 10


def test_substitution_and_healing_show_their_held_out_errors():
    text = shown(documents.prune_document())
    assert row(text, "held-out error") == ["0.31", "→", "0.12"]
    assert row(text, "seam") == ["block", "4"]
    healing = under(text, "Fits").splitlines()
    assert healing[2].split() == "8 attention.dense 0.001 0.2 0.25 left as it was".split()
    assert healing[3].split() == "8 mlp.dense_4h_to_h 0.001 0.2 0.15 kept".split()
    assert "1 of 2 refits lowered the held-out error" in healing[4]


def test_losses_stand_by_domain_with_the_share_won_back():
    text = shown(documents.prune_document())
    prose, drama = (under(text, f"Loss on sample:{name}") for name in ("prose", "drama"))
    assert row(prose, "original") == ["3.0000", "2.9000", "11.0000", "14.0000", "20.09"]
    assert row(prose, "drop")[0] == "3.4000" and row(prose, "result")[4] == "22.20"
    assert "75.0 % of the loss that dropping the blocks cost is won back" in prose
    assert "worse than dropping the blocks and doing nothing else" in drama
    assert "50,048 tokens in 391 rows" in drama


def test_a_domain_of_another_name_than_its_source_says_both():
    document = documents.prune_document()
    document["losses"] = {"calibration": document["losses"]["sample:prose"]}
    assert "Loss on calibration: sample:prose, 50,048 tokens" in shown(document)


def test_nothing_is_won_back_where_nothing_was_lost_or_measured():
    entry = dict(documents.prune_document()["losses"]["sample:prose"])
    assert won_back(entry) == pytest.approx(0.75)
    assert won_back({**entry, "drop": entry["original"]}) is None
    assert won_back({"original": entry["original"], "result": entry["result"]}) is None
    document = documents.prune_document()
    document["losses"] = {"x": {**entry, "result": entry["drop"]}}
    assert "won back" not in shown(document) and "worse" not in shown(document)
    rounded = {**entry["drop"], "mean": entry["drop"]["mean"] + 1e-8}
    document["losses"] = {"x": {**entry, "result": rounded}}
    assert "won back" not in shown(document) and "worse" not in shown(document)


def test_training_shows_its_method_and_losses():
    text = shown(documents.heal_document())
    assert row(text, "method") == ["lora"]
    assert row(text, "steps") == "200 over 409,600 tokens".split()
    assert row(text, "loss ") == ["4.2", "→", "3.1"]
    assert row(text, "at the end") == "ce 3, kl 0.2".split()


def test_samples_are_one_line_each_and_no_markup():
    text = under(shown(documents.prune_document()), "Samples")
    assert row(text, "prompt") == ["It", "was", "the"]
    assert row(text, "original") == ["best", "of", "|", "times"]
    assert row(text, "result") == ["[worst](x)", "*of*"]


def test_a_conversion_says_nothing_of_depth():
    text = shown(documents.convert_document())
    assert not {"Scores", "Loss", "Samples", "Fits"} & set(text.split())
    assert "What was changed" not in model_card(documents.convert_document(), None, notes=[])


def test_the_card_has_blocks_losses_and_samples_that_start_nothing():
    document = documents.prune_document()
    document["samples"][0]["result"] = "see [x](http://y) `rm` <b> www.z.org ![p](q)"
    text = model_card(document, None, notes=[])
    assert "# pythia-160m, 9 of 12 blocks\n" in text
    assert "* Blocks: 12 → 9 of gpt\\_neox.layers, without 5-7." in text
    assert "| result | 3.1000 | 3.0000 | 11.0000 | 14.0000 | 22.20 |" in text
    assert "Worse than dropping the blocks and doing nothing else." in text
    assert "best of \\| times" in text
    sample = next(line for line in text.splitlines() if "see" in line and line.startswith("|"))
    assert "](" not in sample and "http://" not in sample and "<b>" not in sample
    assert "\\`rm\\`" in sample and "www\\." in sample
    assert text.count("\n| --- | --- | --- |\n") == 1, "the table of the samples"
    assert "custom_code" not in text and "trust_remote_code" not in text


def test_the_card_says_what_each_contract_leaves_open():
    fitted, healed = (limits(d) for d in (documents.prune_document(), documents.heal_document()))
    assert "another function than the source" in fitted and "another function" in healed
    assert "Fitted to sample:prose only" in fitted and "Trained on" not in fitted
    assert "numbered anew" in fitted and "numbered anew" not in healed
    assert "Trained on sample:prose only" in healed and "Fitted" not in healed
    plain = documents.prune_document()
    plain["receipts"], plain["losses"] = plain["receipts"][:1], {}
    assert "Fitted" not in limits(plain) and "No loss was measured" in limits(plain)
    assert "No loss was measured" not in fitted


def test_an_exact_rearrangement_promises_equality_and_warns_of_numbers_only():
    document = documents.prune_document()
    for receipt in document["receipts"]:
        receipt["contract"] = "exact"
    document["blocks"] |= {"after": 13, "dropped": [], "order": [*range(6), "zero", *range(6, 12)]}
    text = limits(document)
    assert "numbered anew" in text and "another function" not in text
    assert "# pythia-160m, 13 blocks for 12\n" in model_card(document, None, notes=[])


def test_the_verdict_of_a_changed_function_is_said_to_be_about_loading():
    text = model_card(documents.prune_document(), None, notes=[])
    assert "Verdict: **pass** (a fitted result is held to loading cleanly" in text
    assert "against the source, in" not in text, "no logits were compared"
    convert = model_card(documents.convert_document(), None, notes=[])
    assert "Verdict: **pass**.\n" in convert


def test_a_graft_that_swaps_no_norms_is_not_said_to():
    document = documents.prune_document()
    document["target"]["form"] = "graft"
    text = model_card(document, None, notes=[])
    assert "By the modeling file beside the weights:\n" in text
    assert "RMSNorm for LayerNorm" not in text and "custom_code" in text


def test_a_healed_model_is_called_so():
    assert "# pythia-160m, healed\n" in model_card(documents.heal_document(), None, notes=[])


def test_a_target_that_states_its_modeling_file_is_believed():
    document = documents.convert_document()
    document["target"]["modeling_file"] = False
    assert "trust_remote_code" not in shown(document)
    document = documents.prune_document()
    document["target"]["modeling_file"] = True
    assert "trust_remote_code=True" in shown(document)


@pytest.mark.parametrize("kind", ["prune", "arrange"])
def test_the_blocks_are_told_once(kind):
    text = shown(getattr(documents, f"{kind}_document")())
    assert sum(line.startswith("blocks ") for line in text.splitlines()) == 1


def test_a_writer_that_no_regression_can_set_is_shown_with_the_reason():
    document = documents.prune_document()
    reason = "experts share what is added"
    document["healing"]["steps"].append({"block": 9, "writer": "mlp.experts", "skipped": reason})
    text = " ".join(shown(document).split())
    assert f"left as it was: {reason}" in text and "1 of 2 refits" in text
    assert "1 writer cannot be refitted" in text
    assert "1 of 2 refits" in model_card(document, None, notes=[])


def test_blocks_that_were_named_were_chosen_by_the_request():
    document = documents.prune_document() | {"method": "named", "scores": []}
    assert "chosen by" in shown(document) and "the request, by number" in shown(document)
    assert "every score" not in model_card(document, None, notes=[])
