"""Edits of parameters that lie on disk transposed, stacked, joined in halves, or in two places."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery import edits

# A stack of two experts of [6, 4] lies on disk as halves of each expert, transposed; a bias whole.
EXPERTS = torch.arange(48.0, dtype=torch.float64).view(2, 6, 4) + 1
BIAS = torch.arange(6.0, dtype=torch.float64)
TABLE = torch.arange(20.0, dtype=torch.float64).view(1, 5, 4)
PARTS = {
    f"e.{i}.{side}": Part("experts", index=i, transposed=True, chunk=(k, 2))
    for i in range(2)
    for k, side in enumerate(("gate", "up"))
}


@pytest.fixture
def source(tmp_path):
    tensors = {name: part.cut(EXPERTS).contiguous() for name, part in PARTS.items()}
    tensors |= {"bias": BIAS, "copy": BIAS.clone(), "weight": EXPERTS[0].contiguous()}
    tensors |= {"table": TABLE, "small": torch.ones(3, dtype=torch.int8), "joint": BIAS.clone()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    return open_checkpoint(tmp_path)


NAMES = NameMap(
    parts={
        **PARTS, "bias": Part("bias"), "copy": Part("copy"), "weight": Part("weight"),
        "table": Part("table"), "small": Part("small"),
    },
    joins={"joint": ("first", "second")},
    carried={},
    tied={"bias": "bias", "copy": "bias"},
)  # fmt: skip


def experts(result):
    """The stack, put together again."""
    halves = [[result[f"e.{i}.{side}"].load().T for side in ("gate", "up")] for i in range(2)]
    return torch.stack([torch.cat(pair) for pair in halves])


def vector(size):
    return torch.arange(size, dtype=torch.float64) + 2


@pytest.mark.parametrize(("axis", "size"), [(1, 6), (2, 4)])
def test_a_gain_along_an_axis_of_a_stack_in_pieces(source, axis, size):
    gain = vector(size)
    result = edits.scaled_along(source, NAMES, "experts", lambda: gain, axis=axis)
    view = [1, 1, 1]
    view[axis] = -1
    assert torch.equal(experts(result), EXPERTS * gain.view(view))


def test_tied_parameters_change_together(source):
    result = edits.multiplied(source, NAMES, "copy", 3.0, offset=1.0)
    for name in ("bias", "copy"):
        assert torch.equal(result[name].load(), (BIAS + 1) * 3 - 1)
    result = edits.filled(source, NAMES, "bias", 7.0)
    assert result["copy"].load().tolist() == [7] * 6


def test_zero_rows_leave_the_source_alone(source):
    result = edits.with_zero_rows(source, NAMES, "bias", torch.tensor([1, 4]))
    assert result["bias"].load().tolist() == [0, 0, 2, 3, 0, 5]
    assert torch.equal(source["bias"].load(), BIAS)


def test_a_product_is_added(source):
    values = vector(4)
    result = edits.plus_product(source, NAMES, "bias", "weight", lambda: values, in_dim=1)
    assert torch.equal(result["bias"].load(), BIAS + EXPERTS[0] @ values)
    table = edits.plus_product_in_rows(
        source, NAMES, "table", "weight", lambda: vector(6), in_dim=0, first=2
    )["table"].load()
    assert torch.equal(table[0, :2], TABLE[0, :2])
    assert torch.equal(table[0, 2:], TABLE[0, 2:] + vector(6) @ EXPERTS[0])
    assert torch.equal(source["table"].load(), TABLE)


def test_several_edits_of_one_tensor_add_up(source):
    result = edits.multiplied(source, NAMES, "bias", 2.0)
    result = edits.scaled_along(result, NAMES, "bias", lambda: vector(6), axis=0)
    assert torch.equal(result["bias"].load(), BIAS * 2 * vector(6))


def test_what_cannot_be_edited_is_said(source):
    assert edits.why_not_editable(NAMES, ["bias", None]) is None
    assert "piece of joint" in (edits.why_not_editable(NAMES, ["bias", "second"]) or "")
    with pytest.raises(UnsupportedModelError, match="small is I8"):
        edits.multiplied(source, NAMES, "small", 2.0)
