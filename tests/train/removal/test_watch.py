"""What a run tells while it goes, and where else it writes that."""

import pytest

from normsurgery.errors import UsageError
from normsurgery.train.removal import trainer
from tests.train.removal.tools import options, quick, run


class Notes:
    """A Watcher that keeps what it is told."""

    def __init__(self):
        self.plans, self.steps = [], []

    def begin(self, plan):
        self.plans.append(plan)

    def step(self, **figures):
        self.steps.append(figures)


def test_a_watcher_hears_the_plan_and_every_step(tiny, tmp_path):
    notes = Notes()
    made = run(tiny("gpt2"), tmp_path, watch=notes)
    (plan,) = notes.plans
    assert plan.seconds is None and plan.events == made.events
    assert [(one["step"], one["total"]) for one in notes.steps] == [(n, 12) for n in range(1, 13)]
    assert [one["loss"] for one in notes.steps] == [loss for _, loss in made.loss]
    last = [one["last_removed"] for one in notes.steps]
    assert last[:2] == ["", ""] and last[-1] == "first" and "ln_f" in "".join(last)
    left = [one["seconds_left"] for one in notes.steps]
    assert left[:3] == [None] * 3 and None not in left[3:] and left[-1] == 0.0
    assert all(one["drift"] >= 1.0 for one in notes.steps)


def test_tensorboard_gets_the_figures_where_it_is_told(tiny, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    chosen = options(report_to="tensorboard", logging_dir=tmp_path / "logs")
    made = run(tiny("gpt2"), tmp_path / "work", chosen=chosen)
    found = events.EventAccumulator(str(tmp_path / "logs")).Reload()
    tags = {tag.rpartition("/")[2] for tag in found.Tags()["scalars"]}
    wanted = {"loss", "ce", "aux", "grad_norm", "drift", "removed", "learning_rate"}
    assert wanted <= tags
    logged = [point.value for point in found.Scalars("train/loss")]
    assert logged == pytest.approx([loss for _, loss in made.loss])
    assert not list((tmp_path / "work").rglob("events.out*"))


def test_a_reporter_that_is_not_installed_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--report-to trackio needs that package"):
        run(
            tiny("gpt2"), tmp_path, schedule=quick(),
            chosen=options(report_to="trackio", logging_dir=tmp_path / "logs"),
        )  # fmt: skip
