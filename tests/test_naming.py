"""Names that are proposed for results."""

import pytest

from normsurgery.naming import output_name


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "model", "options", "wanted"),
    [
        ("convert", "openai-community/gpt2", {}, "gpt2-rmsnorm"),
        ("convert", "gpt2@607a30d", {"to": "crmsnorm"}, "gpt2-crmsnorm"),
        ("fold", "./models/x/", {"what": "norm"}, "x-folded"),
        ("fold", "x", {"what": "norm,rotate"}, "x-rotated"),
        ("fold", "x", {"what": "recalibrate"}, "x-recalibrated"),
        ("fold-bn", "microsoft/resnet-18", {}, "resnet-18-nobn"),
        ("prune", "x", {"drop": "2"}, "x-pruned"),
        ("arrange", "x", {}, "x-arranged"),
        ("heal", "x-pruned", {}, "x-pruned-healed"),
        ("remove-ln", "x", {}, "x-noln"),
        ("another", "x", {}, "x-another"),
    ],
)
def test_a_name_says_what_of_and_what_was_done(command, model, options, wanted):
    assert output_name(command, model, options) == wanted


def test_a_name_that_is_taken_gets_a_number(somewhere):
    (somewhere / "x-pruned").mkdir()
    assert output_name("prune", "x", {}) == "x-pruned-2"
    (somewhere / "x-pruned-2").symlink_to("nowhere")
    assert output_name("prune", "x", {}) == "x-pruned-3"


@pytest.mark.parametrize("model", [".", "", "./"])
def test_the_directory_that_we_are_in_gives_its_own_name_and_the_result_lies_beside_it(
    somewhere, monkeypatch, model
):
    (somewhere / "mine").mkdir()
    monkeypatch.chdir(somewhere / "mine")
    assert output_name("prune", model, {}) == "../mine-pruned"
