"""What counts as a writer: every stored weight whose mean over the channels can be taken out."""

from __future__ import annotations

import torch
from torch import nn

from normsurgery.anatomy.norms import find_norms, noted_shapes
from normsurgery.anatomy.stream import read_anatomy
from normsurgery.anatomy.trace import trace

WIDTH = 16


class Block(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mixer = mixer

    def forward(self, hidden):
        return hidden + self.mixer(self.norm(hidden))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, hidden):
        return self.inner(hidden, hidden, hidden)[0]


class Convolution(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.inner = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=groups)

    def forward(self, hidden):
        return self.inner(hidden.transpose(1, 2)).transpose(1, 2)


class Model(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.stem = nn.Linear(5, WIDTH)
        self.blocks = nn.ModuleList([Block(mixer()) for _ in range(2)])
        self.last = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, values):
        hidden = self.stem(values)
        for block in self.blocks:
            hidden = block(hidden)
        return {"logits": self.head(self.last(hidden))}


def _anatomy(mixer):
    torch.manual_seed(0)
    model = Model(mixer).double().eval()
    inputs = {"values": torch.randn(2, 7, 5, dtype=torch.float64)}
    with noted_shapes(model) as shapes, torch.no_grad():
        model(**inputs)
    norms = find_norms(model, shapes)
    recorded = trace(model, inputs, norms=set(norms))
    names = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    return read_anatomy(
        recorded, norms, class_name="Model", modules=names, parameters=parameters, tied={}
    )


def _writers(anatomy):
    (stream,) = anatomy.convertible()
    return {writer.weight for writer in stream.writers}


def test_the_last_projection_of_multihead_attention_is_a_writer():
    anatomy = _anatomy(Attention)
    assert anatomy.why_not() is None
    blocks = {f"blocks.{i}.mixer.inner.out_proj.weight" for i in range(2)}
    assert _writers(anatomy) == {"stem.weight", *blocks}
    (stream,) = anatomy.convertible()
    assert not any(writer.shared for writer in stream.writers)


def test_a_convolution_is_a_writer_unless_it_works_in_groups():
    blocks = {f"blocks.{i}.mixer.inner.weight" for i in range(2)}
    assert _writers(_anatomy(lambda: Convolution(1))) == {"stem.weight", *blocks}
    reason = _anatomy(lambda: Convolution(WIDTH)).why_not()
    assert reason is not None
    assert "a centring in every block" in reason


class Experts(nn.Module):
    """A mixture of which these inputs only ever reach the first."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, hidden):
        return self.experts[0](hidden)


def test_experts_that_no_token_was_sent_to_are_writers_too_and_keep_the_norm_from_folding():
    anatomy = _anatomy(Experts)
    (stream,) = anatomy.convertible()
    names = {f"blocks.{i}.mixer.experts.{k}" for i in range(2) for k in range(3)}
    assert _writers(anatomy) == {"stem.weight", *(f"{name}.weight" for name in names)}
    biases = {writer.bias for writer in stream.writers}
    assert biases == {"stem.bias", *(f"{name}.bias" for name in names)}
    assert "was not run" in anatomy.sites["blocks.0.norm"].unfoldable
    assert not anatomy.sites["last"].unfoldable
