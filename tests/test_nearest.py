"""What was probably meant."""

import pytest

from normsurgery.nearest import choices_hint, did_you_mean, nearest, path_hint

KNOWN = ("norm", "rotate", "layerscale")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("rotat", "rotate"), ("LayerScale", "layerscale"), ("nrom", "norm"), ("zzz", None)],
)
def test_the_nearest_word_whatever_its_case_or_none(word, wanted):
    assert nearest(word, KNOWN) == wanted


def test_the_cutoff_is_how_far_off_a_word_may_be():
    assert nearest("rt", KNOWN) is None and nearest("rt", KNOWN, cutoff=0.3) == "rotate"


def test_a_hint_has_the_likeliest_first_and_then_all():
    assert choices_hint("rotat", KNOWN) == ("did you mean rotate? one of: norm, rotate, layerscale")
    assert choices_hint("zzz", KNOWN) == "one of: norm, rotate, layerscale"
    assert did_you_mean("zzz", KNOWN) == ""


def test_a_path_is_compared_with_what_lies_beside_it(tmp_path):
    (tmp_path / "text.jsonl").touch()
    assert path_hint(tmp_path / "text.json") == f"did you mean {tmp_path / 'text.jsonl'}?"
    assert path_hint(tmp_path / "other") == "check the path"
    assert path_hint(tmp_path / "none" / "x") == "check the path"
