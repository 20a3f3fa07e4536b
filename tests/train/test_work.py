"""Where an interrupted run waits, and which run may go on with it."""

import pytest

from normsurgery.errors import UsageError
from normsurgery.train.work import (
    begin_run,
    check_run,
    end_run,
    last_checkpoint,
    work_directory,
)

RUN = {"method": "lora", "seed": 0, "weights": {"ce": 1.0}}


@pytest.fixture
def waiting(tmp_path):
    """A directory with two whole checkpoints and one that was being written."""
    directory = work_directory(tmp_path / "out", "heal")
    begin_run(directory, RUN, resume=False)
    for step, whole in ((9, True), (10, True), (11, False)):
        (directory / f"checkpoint-{step}").mkdir()
        if whole:
            (directory / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    return directory


def test_it_lies_hidden_beside_the_output(tmp_path):
    assert work_directory(tmp_path / "out", "heal") == tmp_path / ".out.heal"


def test_the_last_whole_checkpoint_counts(waiting, tmp_path):
    last = last_checkpoint(waiting)
    assert last is not None and last.name == "checkpoint-10"
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_a_run_that_waits_is_not_trodden_on(waiting):
    with pytest.raises(UsageError, match=r"an interrupted run waits in \.out\.heal") as raised:
        check_run(waiting, RUN, resume=False, overwrite=False)
    assert "--resume" in raised.value.hint and "--overwrite" in raised.value.hint
    check_run(waiting, RUN, resume=False, overwrite=True)
    check_run(waiting, RUN, resume=True, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_run_cannot_go_on_with_it(waiting, overwrite):
    other = {**RUN, "seed": 1, "weights": {"ce": 2.0}}
    with pytest.raises(UsageError, match="had another seed, weights"):
        check_run(waiting, other, resume=True, overwrite=overwrite)


def test_a_new_run_begins_with_nothing_left(waiting):
    begin_run(waiting, {**RUN, "seed": 2}, resume=False)
    assert last_checkpoint(waiting) is None
    check_run(waiting, RUN, resume=True, overwrite=False)


def test_a_resumed_run_keeps_what_is_there_and_its_end_removes_it(waiting):
    begin_run(waiting, RUN, resume=True)
    assert last_checkpoint(waiting) is not None
    end_run(waiting)
    assert not waiting.exists()
