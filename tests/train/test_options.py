"""What may be asked of a run, and what may not."""

import pytest

from normsurgery.errors import UsageError
from normsurgery.train.options import DEFAULT_RATES, LossWeights, TrainOptions


@pytest.mark.parametrize(
    "values",
    [
        {"ce": 0.0, "kl": 0.0, "hidden": 0.0},
        {"ce": -1.0},
        {"kl": float("nan")},
        {"hidden": float("inf")},
        {"temperature": 0.0},
    ],
)
def test_weights_that_make_no_loss_are_refused(values):
    with pytest.raises(UsageError):
        LossWeights(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "qlora"}, "lora, head\\+last3, full"),
        ({"steps": 3, "epochs": 1.0}, "leave one"),
        ({"steps": 0}, "--steps 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"rate": 2.0}, "learning rate of 2.0"),
        ({"epochs": 0.0}, "--epochs 0.0"),
    ],
)
def test_options_that_make_no_run_are_refused(values, said):
    with pytest.raises(UsageError) as raised:
        TrainOptions(**values)
    import re

    assert re.search(said, f"{raised.value.message} {raised.value.hint}")


def test_a_method_has_a_rate_of_its_own():
    assert TrainOptions("full").learning_rate == DEFAULT_RATES["full"]
    assert TrainOptions("full", rate=0.5).to_dict()["rate"] == 0.5


def test_epochs_count_the_rows_of_all_processes():
    epochs = TrainOptions(epochs=2.0, batch_size=4, gradient_accumulation=2)
    assert epochs.steps_over(80) == 20
    assert epochs.steps_over(80, processes=2) == 10
    assert TrainOptions(steps=7).steps_over(80) == 7


def test_only_a_loss_that_looks_at_it_needs_a_teacher():
    assert not LossWeights(ce=1.0, kl=0.0).needs_teacher
    assert LossWeights(ce=0.0, kl=0.0, hidden=1.0).needs_teacher
