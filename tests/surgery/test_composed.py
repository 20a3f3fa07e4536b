"""Surgeries in a row: what several of them change is rounded once, the rest is left as it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from normsurgery.checkpoint import Checkpoint, open_checkpoint, write_weights
from normsurgery.surgery.composed import Applied, changed_often, rounded_once

FACTOR = 1.1


@pytest.fixture
def source(tmp_path) -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(40, 8, generator=generator).bfloat16() for name in ("a", "b", "c", "d")
    }
    directory = tmp_path / "source"
    directory.mkdir()
    save_file({**tensors, "n": torch.arange(3)}, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    return open_checkpoint(directory)


def times(factor: float, *names: str):
    """A surgery: these tensors times a number, each rounded once where it is stored narrower."""

    def scaled(stored: torch.Tensor) -> torch.Tensor:
        return (stored.double() * factor).to(stored.dtype)

    def operate(source: Checkpoint) -> Checkpoint:
        return source.override({name: source[name].map(scaled, by_rows=True) for name in names})

    return operate


def renamed(source: Checkpoint) -> Checkpoint:
    return source.rename({"a": "z", "b": "a"})


def applied(source: Checkpoint, *steps) -> list[Applied]:
    found = []
    for step in steps:
        found.append(Applied(step, source, step(source)))
        source = found[-1].after
    return found


def values(checkpoint: Checkpoint, directory: Path) -> dict[str, torch.Tensor]:
    directory.mkdir()
    write_weights(checkpoint, directory)
    return dict(load_file(directory / "model.safetensors"))


def test_what_several_steps_change_is_rounded_once(source, tmp_path):
    steps = applied(source, times(FACTOR, "a", "b"), times(1 / FACTOR, "a"))
    assert changed_often(steps) == ["a"]
    before = values(source, tmp_path / "before")
    each = values(steps[-1].after, tmp_path / "each")
    once = values(rounded_once(steps), tmp_path / "once")
    assert torch.equal(once["a"], before["a"])
    assert not torch.equal(each["a"], before["a"])
    assert torch.equal(once["b"], each["b"]) and not torch.equal(once["b"], before["b"])
    assert {name: tensor.dtype for name, tensor in once.items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }


def test_names_may_change_on_the_way(source, tmp_path):
    steps = applied(source, times(FACTOR, "a"), renamed, times(1 / FACTOR, "z", "a"))
    assert changed_often(steps) == ["z"]
    before = values(source, tmp_path / "before")
    once = values(rounded_once(steps), tmp_path / "once")
    assert torch.equal(once["z"], before["a"])
    assert torch.equal(once["a"], (before["b"].double() / FACTOR).bfloat16())


def test_what_no_step_changes_is_copied_as_it_lies_in_the_file(source):
    steps = applied(source, times(FACTOR, "a"), times(1 / FACTOR, "a", "c"))
    result = rounded_once(steps)
    assert {name for name, tensor in result.items() if tensor.range is not None} == {"b", "d", "n"}
    assert rounded_once(steps[:1]) is steps[0].after
