"""The plan before the first step, from names and shapes alone."""

import json

import pytest

from normsurgery.errors import UsageError
from normsurgery.train.removal.options import accumulation_for
from normsurgery.train.removal.plan import plan_removal
from normsurgery.train.removal.published import PUBLISHED
from tests.train.removal.tools import options, quick, run
from tests.train.tools import subject


def plan(directory, *, schedule=None, teacher=False, **changes):
    return plan_removal(
        subject(directory), schedule or quick(), options(**changes), row_length=16,
        teacher=teacher,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_plan_of_a_dry_run_is_the_plan_of_the_run(tiny, tmp_path, family):
    before = plan(tiny(family)).to_dict()
    made = run(tiny(family), tmp_path)
    after = made.plan.to_dict()
    assert before["seconds"] is None and after["seconds"] > 0
    assert {**before, "seconds": 0} == {**after, "seconds": 0}
    assert json.loads(json.dumps(before)) == before
    assert before["trainable_parameters"] == sum(p.numel() for p in made.model.parameters())
    assert before["tokens"] == 12 * 2 * 16


def test_memory_is_of_weights_gradients_adam_and_what_a_batch_leaves(tiny):
    one = plan(tiny("gpt2"))
    count = one.trainable_parameters
    assert (one.memory["weights"], one.memory["adam"]) == (4 * count, 8 * count)
    assert one.memory["activations"] == 2 * 34 * 3 * (2 * 16) * 48
    assert one.to_dict()["memory_bytes"]["total"] == sum(one.memory.values())
    assert plan(tiny("gpt2"), batch_size=4).memory["logits"] == 2 * one.memory["logits"]
    saving = plan(tiny("gpt2"), gradient_checkpointing=True)
    assert saving.memory["activations"] < one.memory["activations"]
    assert plan(tiny("gpt2"), teacher=True).memory["teacher"] == 4 * count


def test_an_order_that_is_yet_to_be_measured_is_said_to_be(tiny):
    schedule = quick(order="sensitivity")
    first = plan(tiny("gpt2"), schedule=schedule)
    assert not first.measured_order
    order = tuple(n for e in first.events if e.action == "remove" for n in e.paths)[::-1]
    second = plan(tiny("gpt2"), schedule=schedule, order=order)
    assert second.measured_order and second.events[0].paths[0] == order[0]


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_read(tiny):
    with pytest.raises(UsageError, match="needs 8 steps for 10 norm paths and has 5"):
        plan(tiny("gpt2"), schedule=quick(5))


def test_accumulation_comes_near_the_tokens_a_step():
    assert accumulation_for(PUBLISHED["gpt2"], batch_size=32, row_length=1024) == 16
    assert accumulation_for(PUBLISHED["gpt2"], batch_size=32, row_length=1024, processes=4) == 4
    assert accumulation_for(PUBLISHED["gpt2"], batch_size=1024, row_length=1024) == 1
    assert accumulation_for(quick(), batch_size=1, row_length=1) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "--batch-size 0 is below 1"),
        ({"retries": -1}, "-1 retries"),
        ({"temperature": 0.0}, "temperature of 0.0"),
        ({"report_to": "wandb"}, "'wandb' is unknown"),
        ({"report_to": "tensorboard"}, "needs a directory"),
    ],
)
def test_options_that_make_no_sense_are_named(changes, words):
    with pytest.raises(UsageError, match=words):
        options(**changes)
