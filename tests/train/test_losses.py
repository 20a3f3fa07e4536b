"""Each loss against a definition written another way, on a few tokens."""

import pytest
import torch

from normsurgery.errors import UsageError
from normsurgery.train.losses import (
    IGNORED,
    cross_entropy,
    divergence,
    predictions,
    stream_error,
    targets_of,
)


def logits(seed, tokens=7, vocabulary=11):
    return torch.randn(tokens, vocabulary, generator=torch.Generator().manual_seed(seed))


def test_targets_leave_out_pads_and_position_0_and_each_meets_the_logits_before_it():
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    labels = targets_of(ids, mask)
    assert labels.tolist() == [[IGNORED, 6, 7], [IGNORED, 9, IGNORED]]
    marked = torch.arange(6.0).view(2, 3, 1)
    assert predictions(marked, labels).flatten().tolist() == [0.0, 1.0, 3.0]
    assert ids.tolist() == [[5, 6, 7], [8, 9, 0]]


def test_cross_entropy_is_a_sum_of_negative_logarithms():
    values, targets = logits(0), torch.arange(7)
    probabilities = values.double().softmax(-1)[torch.arange(7), targets]
    assert cross_entropy(values, targets).item() == pytest.approx(-probabilities.log().sum().item())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_is_the_expectation_of_the_difference_of_logarithms(temperature):
    student, teacher = logits(0).double(), logits(1).double()
    p, q = (x.div(temperature).softmax(-1) for x in (teacher, student))
    wanted = (p * (p.log() - q.log())).sum() * temperature**2
    assert divergence(student, teacher, temperature).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )
    assert divergence(teacher, teacher, temperature).item() == pytest.approx(0.0, abs=1e-6)


def test_a_teacher_of_another_vocabulary_is_refused():
    with pytest.raises(UsageError, match="teacher has 12 tokens"):
        divergence(logits(0), logits(1, vocabulary=12), 1.0)


def test_the_stream_error_is_0_at_the_teacher_and_1_a_token_at_its_mean():
    teacher = logits(3, tokens=9, vocabulary=5) * 10
    assert stream_error(teacher, teacher).item() == 0.0
    mean = teacher.mean(0).expand(9, 5)
    assert stream_error(mean, teacher).item() == pytest.approx(9.0, rel=1e-5)
    assert stream_error(teacher * 100, teacher * 100).item() == 0.0
