"""What Tab offers: models that lie here or in the cache, names for results, words of lists."""

from types import SimpleNamespace

import pytest
import typer

from normsurgery.cli import complete
from normsurgery.cli.app import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two models and other directories, and a Hub cache with one model and one data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / ".cache"))
    monkeypatch.delenv("HF_HOME", raising=False)
    for name in ("models/gpt2", "models/deep/llama", "models/a/b/too-deep", "my-model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    for name in ("empty/inside", ".hidden", ".cache/models--owner--name", ".cache/datasets--a--b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("", {"models/gpt2", "models/deep/llama", "my-model", "owner/name"}),
        ("m", {"models/gpt2", "models/deep/llama", "my-model"}),
        ("models/", {"models/gpt2", "models/deep/llama", "models/a/b/too-deep"}),
        ("models/g", {"models/gpt2"}),
        ("./my", {"./my-model"}),
        ("ow", {"owner/name"}),
        ("empty", {"empty/"}),
        ("empty/", {"empty/inside/"}),
        (".hid", {".hidden/"}),
        ("file", set()),
        ("nothing/at/all", set()),
    ],
)
def test_a_model_is_a_directory_with_a_config_or_in_the_cache(here, typed, wanted):
    assert set(complete.models(typed)) == wanted


def test_an_absolute_path_stays_absolute(here):
    assert complete.models(f"{here}/my-") == [f"{here}/my-model"]


def context(name, **params):
    return SimpleNamespace(info_name=name, params=params)


@pytest.mark.parametrize(
    ("asked", "typed", "wanted"),
    [
        (context("prune", model="a/gpt2"), "", ["gpt2-pruned", "empty/", "models/", "my-model/"]),
        (context("prune", model="a/gpt2"), "gp", ["gpt2-pruned"]),
        (context("fold", model="x", what="rotate"), "x", ["x-rotated"]),
        (context("prune"), "em", ["empty/"]),
        (context("prune", model="a/gpt2"), "models/d", ["models/deep/"]),
    ],
)
def test_an_output_is_the_proposed_name_or_lies_in_a_directory(here, asked, typed, wanted):
    assert complete.outputs(asked, typed) == wanted


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("", ["mlp", "attention"]),
        ("a", ["attention"]),
        ("mlp,", ["mlp,attention"]),
        ("mlp,m", []),
        ("x,mlp,at", ["x,mlp,attention"]),
    ],
)
def test_the_last_word_of_a_list_is_completed(typed, wanted):
    assert complete.word_list(("mlp", "attention"))(typed) == wanted


def test_one_word_is_completed_where_others_are_allowed():
    offered = complete.one_of(complete.DEVICES)
    assert offered("c") == ["cpu", "cuda"] and offered("mps") == []


def test_the_words_are_those_that_the_commands_take():
    from normsurgery.anatomy.norm_paths import SITES
    from normsurgery.api.folding.recalibrate import RECALIBRATE
    from normsurgery.choices import FOLD_ORDER
    from normsurgery.train.removal.published import PUBLISHED
    from normsurgery.train.removal.schedule_file import AUTO

    assert complete.SITES == SITES
    assert complete.FOLDS == (*FOLD_ORDER, RECALIBRATE)
    assert complete.SCHEDULES == (AUTO, *PUBLISHED)


COMPLETED = (
    *("inspect", "convert", "remove-ln", "fold-bn", "fold", "prune", "arrange", "heal", "verify"),
)


def test_every_model_and_output_of_the_surgeries_is_completed():
    for command in (one for one in COMMANDS.values() if one.name in COMPLETED):
        for parameter in command.params:
            if parameter.metavar in ("MODEL", "REFERENCE", "CANDIDATE", "ORIGINAL", "OUT"):
                assert parameter._custom_shell_complete is not None, (command.name, parameter.name)
