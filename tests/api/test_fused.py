"""Several exact steps as one pass: no weights between them, one verification, every number once."""

from pathlib import Path

import pytest
import torch
import yaml

from normsurgery.api.run import run
from normsurgery.checkpoint import open_checkpoint

CONVERT = {"surgery": "convert"}
NORM = {"surgery": "fold", "what": ["norm"]}
VALUES = {"surgery": "fold", "what": ["value-bias"]}
LONGER = {"surgery": "arrange", "blocks": "0,zero,1-2"}
SHORTER = {"surgery": "arrange", "blocks": "0-1"}


def done(source: Path, output: Path, *steps, fuse=True, dry_run=False, **more):
    recipe = output.with_suffix(".yaml")
    values = {"source": str(source), "output": str(output), "device": "cpu", "seed": 3, **more}
    recipe.write_text(yaml.safe_dump({**values, "steps": list(steps)}), encoding="utf-8")
    return run(recipe, fuse=fuse, dry_run=dry_run).to_dict()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def outputs(directory: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    ids = torch.arange(1, 33).view(2, 16)
    with torch.inference_mode():
        return model(ids).logits


@pytest.mark.parametrize(
    ("family", "steps", "forms"),
    [
        ("gpt2", [CONVERT, {**NORM, "untie": True}], {"stock"}),
        ("gpt2", [{**NORM, "untie": True}, CONVERT], {"stock", "graft"}),
        ("gpt2", [VALUES, CONVERT, LONGER], {"stock"}),
    ],
)
def test_the_result_is_that_of_the_steps_one_by_one(tiny, tmp_path, family, steps, forms):
    source = tiny(family, dtype="float64")
    document = done(source, tmp_path / "one", *steps)
    assert document["verification"]["verdict"] == "pass"
    assert document["verification"]["contract"] == "exact"
    *first, last = document["verification"]["steps"]
    assert {one["with_step"] for one in first} == {len(steps)} and last["since_step"] == 1
    assert {name for name, one in last.items() if isinstance(one, dict)} == forms
    assert {one["pass"] for one in document["steps"]} == {1}
    done(source, tmp_path / "each", *steps, fuse=False)
    mine, theirs = outputs(tmp_path / "one"), outputs(tmp_path / "each")
    assert (mine - theirs).abs().max() <= 1e-12 * theirs.std()
    assert not torch.equal(theirs, 1.001 * theirs)
    ours, other = (open_checkpoint(tmp_path / name) for name in ("one", "each"))
    assert list(ours) == list(other) and ours.config == other.config
