"""Whole removals by the real Trainer on tiny models."""

import json
import math

import pytest
import torch

from normsurgery.errors import UsageError
from normsurgery.train.removal.run import remove_norms_by_training, train_control
from normsurgery.train.removal.trainer import make_trainer
from normsurgery.train.run import ready_model
from normsurgery.train.trainer import Extras, Objective
from normsurgery.train.work import last_checkpoint
from tests.train.removal.tools import options, quick, run
from tests.train.tools import InterruptedRunError, StopsAt, rows, subject

FAMILIES = ("gpt2", "llama")


def values(made):
    return {name: value.clone() for name, value in made.state.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_is_frozen_at_the_end(tiny, tmp_path, family):
    made = run(tiny(family), tmp_path)
    assert made.removal.done and made.retries == 0 and made.notes == ()
    assert made.events == made.plan.events
    assert {name for e in made.events for name in e.paths if e.action == "remove"} == {
        path.name for path in made.removal.paths
    }
    assert [step for step, _ in made.loss] == list(range(1, 13)) and made.steps == 12
    assert set(made.final) == {"loss", "ce", "aux"}
    assert made.plan.seconds is not None and made.plan.seconds > 0
    with torch.no_grad():
        ids = rows().ids[:1]
        frozen = made.model(ids).logits
        made.removal.detach()
        assert not torch.allclose(frozen, made.model(ids).logits, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stop", [4, 11])
def test_a_run_killed_and_resumed_ends_in_the_bits_of_one_that_was_not(
    tiny, tmp_path, family, stop
):
    chosen = options(gradient_accumulation=2, save_every=1 + stop % 2)
    schedule = quick(anneal=2, anneal_first=1, ce=(1.0, 0.5), kl=(0.0, 1.0))
    teacher = tiny(family, seed=1)
    whole = run(tiny(family), tmp_path / "a", schedule=schedule, teacher=teacher, chosen=chosen)
    with pytest.raises(InterruptedRunError):
        run(
            tiny(family), tmp_path / "b", schedule=schedule, teacher=teacher, chosen=chosen,
            progress=StopsAt(stop),
        )  # fmt: skip
    start = last_checkpoint(tmp_path / "b")
    assert start is not None
    resumed = run(
        tiny(family), tmp_path / "b", schedule=schedule, teacher=teacher, chosen=chosen,
        resume_from=start,
    )  # fmt: skip
    assert same(whole.state, resumed.state)
    assert resumed.loss == whole.loss and resumed.ce == whole.ce
    assert resumed.events == whole.events and resumed.removal.sigmas() == whole.removal.sigmas()


def test_the_bits_depend_on_the_schedule(tiny, tmp_path):
    """What the test above compares would differ without the removal's state."""
    early, late = (run(tiny("gpt2"), tmp_path / str(s), schedule=quick(start=s)) for s in (2, 3))
    assert not same(early.state, late.state)


def test_a_checkpoint_of_another_schedule_is_not_taken_up(tiny, tmp_path):
    run(tiny("gpt2"), tmp_path)
    with pytest.raises(UsageError, match="another schedule: gap_v, start"):
        run(
            tiny("gpt2"), tmp_path, schedule=quick(start=1, gap_v=0.5),
            resume_from=last_checkpoint(tmp_path),
        )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_control_trains_as_the_removal_does_until_the_first_norm_goes(tiny, tmp_path, family):
    schedule = quick(start=5, auxiliary=0.0)
    control = train_control(
        subject(tiny(family)), rows(), schedule, options(), tmp_path / "control"
    )
    removed = run(tiny(family), tmp_path / "removal", schedule=schedule)
    assert [x for _, x in control.loss[:5]] == pytest.approx([x for _, x in removed.ce[:5]])
    assert control.loss[5][1] != pytest.approx(removed.ce[5][1])
    again = train_control(
        subject(tiny(family)), rows(), schedule, options(), tmp_path / "control",
        resume_from=last_checkpoint(tmp_path / "control"),
    )  # fmt: skip
    assert same(control.state, again.state) and again.loss == control.loss
    with torch.no_grad():
        ids = rows().ids[:1]
        assert torch.equal(control.model(ids).logits, again.model(ids).logits)


def test_a_control_in_memory_may_teach(tiny, tmp_path):
    schedule = quick(kl=(1.0, 1.0), ce=(0.0, 0.0))
    control = train_control(subject(tiny("gpt2")), rows(), schedule, options(), tmp_path / "c")
    before = values(control)
    made = remove_norms_by_training(
        subject(tiny("gpt2")), control.model, rows(), schedule, options(), tmp_path / "r",
        reference=[loss for _, loss in control.loss],
    )  # fmt: skip
    assert set(made.final) == {"loss", "ce", "kl", "aux"} and made.removal.done
    assert same(before, control.model.state_dict())


def test_a_divergence_needs_a_teacher(tiny, tmp_path):
    with pytest.raises(UsageError, match="no teacher was given"):
        run(tiny("gpt2"), tmp_path, schedule=quick(kl=(0.0, 1.0)))


def test_the_divergence_may_look_at_some_rows_only(tiny, tmp_path):
    """The first row of two: the same teacher, another estimate of the same mean."""
    text = rows(2, 16)
    found = []
    for share in (1.0, 0.5):
        schedule = quick(kl=(1.0, 1.0), kl_rows=share, learning_rate=1e-6, min_learning_rate=1e-7)
        made = run(
            tiny("gpt2"), tmp_path / str(share), schedule=schedule, teacher=tiny("gpt2", seed=1),
            text=text,
        )  # fmt: skip
        found.append(made.final["kl"])
    assert found[0] == pytest.approx(found[1], rel=0.1) and found[0] != found[1]


def test_checkpointed_activations_change_no_loss(tiny, tmp_path):
    plain, saving = (
        run(tiny("gpt2"), tmp_path / str(flag), chosen=options(gradient_checkpointing=flag))
        for flag in (False, True)
    )
    assert [x for _, x in saving.loss] == pytest.approx([x for _, x in plain.loss], rel=1e-5)


def test_accumulated_batches_are_the_large_batch(tiny, tmp_path):
    """Rows of different lengths; σ̂ and every loss but the auxiliary one are of the whole step."""
    found = []
    for size, accumulated in ((6, 1), (2, 3)):
        made = run(
            tiny("llama"), tmp_path / str(size), schedule=quick(auxiliary=0.0),
            chosen=options(batch_size=size, gradient_accumulation=accumulated),
        )  # fmt: skip
        found.append([x for _, x in made.loss])
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0][0] != found[0][-1]


def test_by_sensitivity_the_order_is_measured(tiny, tmp_path):
    schedule = quick(order="sensitivity")
    made = run(tiny("gpt2"), tmp_path / "a", schedule=schedule)
    order = tuple(n for e in made.events if e.action == "remove" for n in e.paths)
    assert sorted(order) == sorted(path.name for path in made.removal.paths)
    given = run(tiny("gpt2"), tmp_path / "b", schedule=schedule, chosen=options(order=order[::-1]))
    assert tuple(n for e in given.events if e.action == "remove" for n in e.paths) == order[::-1]
    assert made.plan.measured_order


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_biases_do_not_decay(tiny, tmp_path, family):
    chosen, schedule = options(), quick(weight_decay=0.5)
    model = ready_model(subject(tiny(family)), chosen.training(schedule, 12))
    trainer = make_trainer(
        model, rows(), schedule, chosen, tmp_path, steps=12, extras=Extras(), teacher=None,
        objective=Objective(weights=schedule.weights),
    )  # fmt: skip
    groups = trainer.create_optimizer().param_groups
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_every_step_says_rate_drift_and_what_is_gone(tiny, tmp_path):
    schedule = quick(warmup=2, horizon=24, learning_rate=1e-2)
    made = run(tiny("gpt2"), tmp_path, schedule=schedule)
    log = history(tmp_path)
    rates = [entry["learning_rate"] for entry in log]
    assert rates[:3] == pytest.approx([0.0, 5e-3, 1e-2])
    at = 0.5 * (1 + math.cos(math.pi * 9 / 22))  # the twelfth step: 9 of 22 after the warm-up
    assert rates[11] == pytest.approx(1e-4 + 9.9e-3 * at)
    assert [entry["removed"] for entry in log] == [
        sum(len(e.paths) for e in made.events if e.action == "remove" and e.step < step)
        for step in range(1, 13)
    ]
    drift = [entry["drift"] for entry in log]
    assert drift[:2] == [1.0, 1.0] and min(drift) >= 1.0 and drift[-1] > 1.001
    assert {"loss", "ce", "aux", "grad_norm"} <= set(log[0])


def history(work):
    last = last_checkpoint(work)
    assert last is not None
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in log if "ce" in entry]
