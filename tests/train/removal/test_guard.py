"""Runs that diverge: what is given back, what is tried again, and when that ends."""

import shutil

import pytest
import torch

from normsurgery.errors import SurgeryError
from normsurgery.train import losses, trainer
from normsurgery.train.norms.attach import Removal
from normsurgery.train.removal.course import Course
from normsurgery.train.removal.events import Event
from normsurgery.train.removal.guard import DivergedError, go_back
from normsurgery.train.work import checkpoints, last_checkpoint
from tests.train.removal.tools import options, quick, run

EVENTS = (
    Event(2, "remove", ("a",)), Event(4, "remove", ("b",)), Event(5, "remove", ("c",)),
    Event(8, "merge", ("first",)),
)  # fmt: skip
PLAIN = quick(20)


def work_with(directory, *steps):
    for step in steps:
        (directory / f"checkpoint-{step}").mkdir(parents=True)
        (directory / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    return directory


@pytest.mark.parametrize(
    ("culprit", "steps"), [(0, [4, 8, 10, 16]), (1, [2, 6, 8, 14]), (2, [2, 4, 6, 12])]
)
def test_gaps_double_from_the_one_before_the_culprit(culprit, steps):
    slower = Course(EVENTS, 20).slower(EVENTS[culprit], PLAIN)
    assert [event.step for event in slower.events] == steps
    assert slower.steps == 20 and slower.retries == 1
    assert [event.paths for event in slower.events] == [event.paths for event in EVENTS]


def test_a_removal_before_the_first_step_is_put_off():
    course = Course((Event(0, "remove", ("a",)), Event(1, "merge", ("first",))), 20)
    assert [e.step for e in course.slower(course.events[0], PLAIN).events] == [1, 3]


def test_a_run_gets_more_steps_where_slower_removals_need_them():
    slower = Course(EVENTS, 10).slower(EVENTS[0], PLAIN)
    assert slower.steps == 19  # 17 for the events, and a tenth of the run after them


@pytest.mark.parametrize(
    ("failed", "start", "left"),
    [(3, 2, [2]), (5, 4, [2, 4]), (6, 4, [2, 4]), (9, 6, [2, 4, 6]), (4, 2, [2])],
)
def test_it_goes_back_to_before_the_removal_that_did_it(tmp_path, failed, start, left):
    work = work_with(tmp_path, 2, 4, 6)
    course, path = go_back(Course(EVENTS, 20), DivergedError(failed, "bad"), PLAIN, work, 3)
    assert path == work / f"checkpoint-{start}"
    assert [step for step, _ in checkpoints(work)] == left
    assert f"diverged at step {failed}: bad" in course.notes[0]
    assert f"back to step {start}" in course.notes[0]
    (rollback,) = course.rollbacks
    assert (rollback.step, rollback.back_to) == (failed, start)
    assert Course.from_dict(course.to_dict()) == course


def test_without_a_checkpoint_before_it_the_run_starts_again(tmp_path):
    work = work_with(tmp_path, 6)
    _, path = go_back(Course(EVENTS, 20), DivergedError(3, "bad"), PLAIN, work, 3)
    assert path is None and checkpoints(work) == []


def test_what_no_slower_removal_helps_is_an_error(tmp_path):
    with pytest.raises(SurgeryError, match="step 2: bad; no norm had been removed yet"):
        go_back(Course(EVENTS, 20), DivergedError(2, "bad"), PLAIN, tmp_path, 3)
    with pytest.raises(SurgeryError, match="3 retries with longer gaps did not help"):
        go_back(Course(EVENTS, 20, retries=3), DivergedError(9, "bad"), PLAIN, tmp_path, 3)


def sabotage(monkeypatch, times):
    """The first `times` removals of a final norm freeze a σ̂ that is far too small."""
    whole = Removal.remove
    done: list[str] = []

    def remove(self, names, share=1.0):
        names = list(names)
        whole(self, names, share)
        for path in self.paths:
            if path.name in names and path.kind == "final" and len(done) < times:
                done.append(path.name)
                state = self.state()
                state["paths"][path.name]["ordinary"] *= 1e-5
                self.restore(state)

    monkeypatch.setattr(Removal, "remove", remove)
    return done


@pytest.mark.parametrize("reference", [None, [4.5] * 20])
def test_a_removal_that_goes_wrong_once_is_done_again_later(tiny, tmp_path, monkeypatch, reference):
    schedule = quick(20)
    plain = run(tiny("gpt2"), tmp_path / "a", schedule=schedule)
    done = sabotage(monkeypatch, 1)
    made = run(tiny("gpt2"), tmp_path / "b", schedule=schedule, reference=reference)
    assert len(done) == 1 and made.retries == 1 and made.removal.done
    assert "ln_f went at step 5. It went back to step 3, with the gaps" in made.notes[0]
    assert "above 3 ×" in made.notes[0]
    at = {name: e.step for e in made.events for name in e.paths}
    before = {name: e.step for e in plain.events for name in e.paths}
    assert at["transformer.ln_f"] > before["transformer.ln_f"]
    assert [step for step, _ in made.loss] == list(range(1, 21))
    assert made.loss[:5] == plain.loss[:5]
    assert max(loss for _, loss in made.ce) < 3 * 4.5


def test_a_run_that_went_back_is_resumed_to_the_same_bits(tiny, tmp_path, monkeypatch):
    schedule, chosen = quick(20), options(save_every=2)
    sabotage(monkeypatch, 1)
    whole = run(tiny("gpt2"), tmp_path / "a", schedule=schedule, chosen=chosen)
    sabotage(monkeypatch, 0)
    for step, path in checkpoints(tmp_path / "a")[1:]:
        assert step > 14
        shutil.rmtree(path)
    resumed = run(
        tiny("gpt2"), tmp_path / "a", schedule=schedule, chosen=chosen,
        resume_from=last_checkpoint(tmp_path / "a"),
    )  # fmt: skip
    assert resumed.retries == 1 and resumed.notes == whole.notes
    assert resumed.rollbacks == whole.rollbacks and len(whole.rollbacks) == 1
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)


def test_a_removal_that_always_goes_wrong_is_an_error(tiny, tmp_path, monkeypatch):
    done = sabotage(monkeypatch, 99)
    with pytest.raises(SurgeryError, match="2 retries with longer gaps did not help"):
        run(tiny("llama"), tmp_path, chosen=options(retries=2))
    assert len(done) == 3


def test_a_loss_that_is_not_finite_goes_back_too(tiny, tmp_path, monkeypatch):
    whole, calls = losses.cross_entropy, []

    def broken(*arguments):
        calls.append(1)
        return whole(*arguments) * (float("nan") if len(calls) == 8 else 1.0)

    monkeypatch.setattr(trainer, "cross_entropy", broken)
    made = run(tiny("gpt2"), tmp_path)
    assert made.retries == 1 and "step 8: its loss is nan" in made.notes[0]
    assert all(torch.isfinite(value).all() for value in made.state.values())


def test_a_rate_that_is_far_too_high_is_an_error(tiny, tmp_path):
    schedule = quick(learning_rate=0.9, min_learning_rate=0.9, clip=1e9)
    with pytest.raises(SurgeryError, match="training diverged at step"):
        run(tiny("gpt2"), tmp_path, schedule=schedule)


def test_a_run_that_does_well_is_not_interfered_with(tiny, tmp_path):
    made = run(tiny("gpt2"), tmp_path, reference=[3.0] * 12)
    assert made.retries == 0
