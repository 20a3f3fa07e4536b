"""The three losses of healing, each a sum over tokens, so that batches of any size add up.

Shapes: logits [tokens, vocabulary], targets [tokens] int64, hidden states [tokens, width].
Everything is computed in float32, whatever autocast made of the model's own output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from normsurgery.errors import UsageError

IGNORED = -100


def targets_of(ids: Tensor, mask: Tensor) -> Tensor:
    """Labels [rows, time]: the ids, IGNORED at pads and at position 0, which nothing predicts."""
    labels = ids.masked_fill(~mask, IGNORED)
    labels[:, 0] = IGNORED
    return labels


def predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits [tokens, vocabulary] that predict a label, given all [rows, time, vocabulary]."""
    return logits[:, :-1][labels[:, 1:] != IGNORED]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed over tokens, in nats."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of both distributions at a temperature, × its square, summed.

    UsageError where the two do not have the same vocabulary.
    Source: arXiv 1503.02531.
    """
    if student.shape != teacher.shape:
        raise UsageError(
            f"the teacher has {teacher.shape[-1]} tokens in its vocabulary, "
            f"the student {student.shape[-1]}",
            "the teacher is the model that the student was made from",
        )
    learned = F.log_softmax(student.float() / temperature, dim=-1)
    known = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(learned, known, reduction="sum", log_target=True) * temperature**2


def stream_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error relative to the teacher's variance over these tokens, × their number.

    0 where the student equals the teacher, 1 a token where it says no more than the mean.
    """
    wanted = teacher.float()
    spread = (wanted - wanted.mean(0)).square().sum()
    error = (student.float() - wanted).square().sum()
    return error / spread.clamp_min(torch.finfo(torch.float32).tiny) * len(wanted)
