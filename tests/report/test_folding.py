"""What `fold` reports: sites folded and left, streams and statistics measured."""

from normsurgery.report.card import model_card
from normsurgery.report.folding import fold_heading, fold_markdown, fold_sections
from tests.report import documents
from tests.report.test_render import row, shown


def test_folds_stand_beside_what_they_left():
    text = shown(documents.fold_document(), width=120)
    assert row(text, "norm") == ["exact", "99", "49", "0", "0"]  # the step comes first
    after = text[text.index("Folds") :]
    assert row(after, "norm")[:2] == ["1,234", "2"]
    assert "no per-channel gain stands straight after a linear" in row_text(after, "layerscale")
    assert row(text[text.index("Left as it is") :], "norm model.layers.{0,1}.q_norm".split()[0])
    assert "model.layers.{0,1}.q_norm" in text and "model.layers.#.attn reads it" in text


def row_text(text, start):
    return " ".join(row(text, start))


def test_the_stream_is_shown_before_and_after():
    text = shown(documents.fold_document(), width=120)
    assert row(text, "worst: model.layers.0") == ["812", "3.02", "41.2", "1.5"]
    assert "2,144 tokens" in text
    without = documents.fold_document()
    without["kurtosis"] = {
        "measured": False, "why_not": "too large", "tokens": 0, "blocks": [],
    }  # fmt: skip
    assert "Not measured: too large." in shown(without)


def test_recalibration_is_shown_before_and_after():
    text = shown(documents.recalibrate_document(), width=120)
    assert row(text, "before") == ["2.25", "25.00", "%", "–"]
    assert row(text, "after") == ["0.5", "87.50", "%", "–"]
    assert "7 BatchNorms have new statistics (2 of them put back where they were folded)" in text


def test_the_card_names_the_folds():
    document = documents.fold_document()
    card = model_card({**document, "versions": {}, "files": {}}, None, notes=())
    assert "norm folded" in card and "## What was folded" in card
    assert "| norm | model.layers.{0,1}.q_norm | 2 | model.layers.#.attn reads it |" in card
    assert "## The stream's outliers" in card and "| worst: model.layers.0 | 812 | 3.02 |" in card
    recalibrated = fold_markdown(documents.recalibrate_document())
    assert "| after | 0.5 | 87.50 % | – |" in recalibrated


def test_other_surgeries_have_none_of_it():
    document = documents.convert_document()
    assert fold_sections(document) == [] and fold_markdown(document) == ""
    assert fold_heading(document) is None
