"""What a person reads of folded BatchNorms: each one, with its reason."""

from rich.console import Console

from normsurgery.report import render
from normsurgery.report.card import model_card
from normsurgery.report.fold_bn import batch_norm_sections, folds_line
from tests.report import documents


def printed(document):
    console = Console(width=100)
    with console.capture() as captured:
        for part in render(document):
            console.print(part)
    return captured.get()


def test_the_report_folds_blocks_and_names_what_stays_with_its_reason():
    text = printed(documents.fold_bn_document())
    assert "6 of 7 BatchNorms: 6 into the map before it, 1 stays" in text
    assert "stages.{0,1}.layers.{0-2}.norm" in text
    assert "relu between it and stages.2.conv" in text
    assert "trust_remote_code" not in text


def test_merged_maps_are_counted():
    found = documents.fold_bn_document()["batch_norms"] | {"form": "graft", "merged_maps": 3}
    assert folds_line(found).endswith("; 3 parallel maps merged")


def test_the_card_has_the_table_and_no_word_of_rmsnorm():
    card = model_card(documents.fold_bn_document(), None, notes=["inference only"])
    assert "with 6 BatchNorms folded\n" in card and "## BatchNorms" in card
    assert "RMSNorm" not in card and "inference only" in card


def test_a_name_from_outside_starts_nothing_in_the_card():
    document = documents.fold_bn_document()
    document["batch_norms"]["norms"][0]["name"] = "<img src=x>|[a](http://b)"
    card = model_card(document, None, notes=[])
    assert "<img" not in card and "](http://b)" not in card


def test_other_commands_have_no_such_section():
    assert batch_norm_sections(documents.convert_document()) == []


def test_how_to_load_a_graft_does_not_depend_on_the_command_that_made_it():
    document = documents.fold_bn_document()
    document["target"] = {**document["target"], "form": "graft", "modeling_file": True}
    for command in ("fold-bn", "run"):
        text = printed({**document, "command": command})
        assert "# by the modeling file beside the weights" in text
        assert "with RMSNorm" not in text
    converted = {**documents.convert_document(), "command": "run"}
    assert "with RMSNorm for LayerNorm" in printed(converted)
