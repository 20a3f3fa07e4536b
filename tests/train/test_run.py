"""Whole runs of the real Trainer on tiny models."""

from dataclasses import replace

import pytest
import torch

from normsurgery.errors import SurgeryError, UsageError
from normsurgery.train.arguments import training_arguments
from normsurgery.train.options import LossWeights
from normsurgery.train.work import last_checkpoint
from tests.train.tools import DIVERGENCE, InterruptedRunError, StopsAt, options, rows, run


def values(trained):
    return {name: value.clone() for name, value in trained.state.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("method", ["lora", "head+last3", "full"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_method_moves_towards_the_teacher(tiny, tmp_path, family, method):
    chosen = options(method, 16, weights=DIVERGENCE, rate=3e-3, batch_size=6)
    trained = run(tiny(family), tiny(family, seed=1), tmp_path, chosen)
    losses = [loss for _, loss in trained.loss]
    assert [step for step, _ in trained.loss] == list(range(1, 17)) and trained.steps == 16
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])  # two steps see every row
    assert set(trained.final) == {"loss", "kl"}
    assert not any("lora" in name for name in trained.state)


def test_what_does_not_train_keeps_its_bits(tiny, tmp_path):
    before = run(tiny("llama"), None, tmp_path / "a", options(
        "head+last3", 1, weights=LossWeights(kl=0.0), rate=1e-9)).state  # fmt: skip
    trained = run(tiny("llama"), None, tmp_path / "b", options(
        "head+last3", 3, weights=LossWeights(kl=0.0), rate=1e-2))  # fmt: skip
    moved = {name for name in before if not torch.equal(before[name], trained.state[name])}
    assert moved <= set(trained.changed) and "lm_head.weight" in moved
    assert "model.embed_tokens.weight" not in moved


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_resumed_run_ends_in_the_bits_of_one_that_was_not_interrupted(
    tiny, tmp_path, family, method
):
    student, teacher = tiny(family), tiny(family, seed=1)
    chosen = options(method, 7, rate=1e-3, weights=LossWeights(hidden=0.5), gradient_accumulation=2)
    whole = run(student, teacher, tmp_path / "whole", chosen)
    with pytest.raises(InterruptedRunError):
        run(student, teacher, tmp_path / "cut", chosen, progress=StopsAt(5))
    start = last_checkpoint(tmp_path / "cut")
    assert start is not None and start.name == "checkpoint-4"
    resumed = run(student, teacher, tmp_path / "cut", chosen, resume_from=start)
    assert same(whole.state, resumed.state)
    assert resumed.loss == whole.loss and resumed.tokens == whole.tokens
    # the test can fail: without its checkpoint the second run would have ended elsewhere
    other = run(student, teacher, tmp_path / "other", replace(chosen, seed=1))
    assert not same(whole.state, other.state)


def test_a_checkpoint_of_other_parameters_is_not_loaded(tiny, tmp_path):
    chosen = options("full", 2, weights=DIVERGENCE)
    run(tiny("llama"), tiny("llama", seed=1), tmp_path, chosen)
    with pytest.raises(UsageError, match="trained other parameters"):
        run(
            tiny("llama"), tiny("llama", seed=1), tmp_path, replace(chosen, method="head+last3"),
            resume_from=last_checkpoint(tmp_path),
        )  # fmt: skip


def test_accumulated_batches_are_the_large_batch(tiny, tmp_path):
    """Rows of different lengths: an average of averages would differ."""
    losses = []
    for size, accumulated in ((6, 1), (2, 3)):
        chosen = options("full", 4, batch_size=size, gradient_accumulation=accumulated, rate=1e-3)
        trained = run(tiny("llama"), tiny("llama", seed=1), tmp_path / str(size), chosen)
        losses.append([loss for _, loss in trained.loss])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][3]


def test_the_parts_add_up_to_the_loss(tiny, tmp_path):
    weights = LossWeights(ce=0.5, kl=2.0, hidden=0.25, temperature=2.0)
    trained = run(tiny("gpt2"), tiny("gpt2", seed=1), tmp_path, options(steps=1, weights=weights))
    final = trained.final
    total = 0.5 * final["ce"] + 2.0 * final["kl"] + 0.25 * final["hidden"]
    assert final["loss"] == pytest.approx(total, rel=1e-5)


def test_the_teacher_as_its_own_student_has_no_divergence(tiny, tmp_path):
    weights = LossWeights(ce=0.0, kl=1.0, hidden=1.0)
    trained = run(tiny("gpt2"), tiny("gpt2"), tmp_path, options(steps=1, weights=weights))
    assert trained.final["kl"] == pytest.approx(0.0, abs=1e-5)
    assert trained.final["hidden"] == pytest.approx(0.0, abs=1e-9)


def test_checkpointed_activations_change_nothing(tiny, tmp_path):
    weights = LossWeights(hidden=1.0)
    plain, saving = (
        run(
            tiny("gpt2"), tiny("gpt2", seed=1), tmp_path / str(flag),
            options(steps=3, weights=weights, gradient_checkpointing=flag),
        )
        for flag in (False, True)
    )  # fmt: skip
    assert [x for _, x in saving.loss] == pytest.approx([x for _, x in plain.loss], rel=1e-5)


def test_tokens_are_the_predicted_ones(tiny, tmp_path):
    text = rows(4, 16)  # 15 + 10 + 15 + 10 tokens are predicted
    chosen = options(steps=3, batch_size=4, weights=LossWeights(kl=0.0))
    assert run(tiny("gpt2"), None, tmp_path, chosen, rows=text).tokens == 3 * 50


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, bad, monkeypatch):
    from normsurgery.train import trainer

    monkeypatch.setattr(trainer, "cross_entropy", lambda *_: torch.tensor(float(bad)))
    with pytest.raises(SurgeryError, match=f"step 1: its loss is {bad}"):
        run(tiny("gpt2"), tiny("gpt2", seed=1), tmp_path, options("head+last3", 4))
    assert last_checkpoint(tmp_path) is None


def test_a_loss_that_needs_a_teacher_asks_for_one(tiny, tmp_path):
    with pytest.raises(UsageError, match="the KL compares with a teacher"):
        run(tiny("gpt2"), None, tmp_path, options())
    with pytest.raises(UsageError, match="--hidden compares with a teacher"):
        run(tiny("gpt2"), None, tmp_path, options(weights=LossWeights(kl=0.0, hidden=1.0)))


def test_streams_of_two_widths_have_no_error(tiny, tmp_path):
    with pytest.raises(UsageError, match=r"no surgery\.json"):
        run(tiny("gpt_neo"), tiny("gpt2"), tmp_path, options(weights=LossWeights(hidden=1.0)))


def test_a_device_that_is_not_there_is_a_usage_error(tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            training_arguments(replace(options(), device="cuda"), 8, tmp_path)
    assert training_arguments(options(), 8, tmp_path).use_cpu
    assert not training_arguments(options(), 8, tmp_path).bf16


def test_bf16_where_it_is_asked_for_keeps_float32_weights(tiny, tmp_path):
    trained = run(tiny("llama"), tiny("llama", seed=1), tmp_path, options(steps=2, bf16=True))
    assert {value.dtype for value in trained.state.values()} == {torch.float32}
    exact = run(tiny("llama"), tiny("llama", seed=1), tmp_path, options(steps=2, bf16=False))
    assert not same(values(trained), values(exact))


def test_a_run_that_was_stopped_after_its_last_step_ends_as_it_did(tiny, tmp_path):
    chosen = options("full", 5, weights=LossWeights(kl=0.0), save_every=2)
    whole = run(tiny("gpt2"), None, tmp_path, chosen)
    end = last_checkpoint(tmp_path)
    assert end is not None and end.name == "checkpoint-5"
    again = run(tiny("gpt2"), None, tmp_path, chosen, resume_from=end)
    assert same(whole.state, again.state)
    assert again.loss == whole.loss and again.steps == 5
