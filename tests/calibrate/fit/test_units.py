"""Heads and neurons that can be exchanged, found by permuting them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normsurgery.calibrate.fit.blocks import LoadedBlock
from normsurgery.calibrate.fit.gram import Moments
from normsurgery.calibrate.fit.merge import (
    Candidates,
    Donor,
    folded_readers,
    taken_over,
    worth_keeping,
)
from normsurgery.calibrate.fit.units import find_units
from tests.calibrate.fit.walking import tiny


@pytest.mark.parametrize(
    ("name", "heads", "sections", "neurons"),
    [
        ("gpt2", 4, ((48, 48, 48),), 192),  # q, k and v in sections of one linear
        ("gpt_neox", 4, ((144,),), 100),  # q, k and v of a head side by side
        ("llama", 2, ((48,), (24,), (24,)), 100),  # two heads share a key
        ("qwen3_moe", 2, ((48,), (24,), (24,)), 100),  # norms on q and k
        ("phi3", 2, ((48, 24, 24),), 100),
        ("bloom", None, None, 192),  # a head's place sets its slope
        ("gpt_oss", None, None, None),  # a head's place has its sink
    ],
)
def test_units(
    name: str, heads: int | None, sections: object, neurons: int | None, tmp_path: Path
) -> None:
    model = tiny(name, tmp_path, rows=2, dtype=torch.float32)
    block = 1
    paths = [writer.module for writer in model.writers[block]]
    with model.engine.loaded(block) as module:
        loaded = LoadedBlock(model.engine, block, module)
        attention, mlp = find_units(loaded, paths, model.engine.embedded()[0])
    assert (attention.count if attention else None) == heads
    assert (attention.sections if attention else None) == sections
    assert (mlp.count if mlp else None) == neurons


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "phi3"])
def test_seam_with_units_of_another_block_computes_them(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path, rows=2)
    engine = model.engine
    x = engine.embedded()[0]
    paths = [writer.module for writer in model.writers[0]]
    with engine.loaded(0) as first, engine.loaded(1) as second:
        seam, other = LoadedBlock(engine, 0, first), LoadedBlock(engine, 1, second)
        for path, units in zip(paths, find_units(seam, paths, x), strict=True):
            assert units is not None
            readers = folded_readers(other, seam, units)
            candidates = Candidates(units, (Donor(readers, torch.empty(0)),))
            own = seam.taken(0, x, [path]).inputs[path]
            with seam.lent(readers):
                theirs = seam.taken(0, x, [path]).inputs[path]
            kept = torch.arange(units.count) * 2  # half of the seam's own, half of the other's
            with seam.lent(taken_over(seam, candidates, kept)):
                found = seam.taken(0, x, [path]).inputs[path]
            both = torch.cat([own, theirs], -1)
            assert torch.allclose(found, both[..., units.input_channels(kept)], atol=1e-9)


def test_folded_readers_see_the_other_norm(tmp_path: Path) -> None:
    """On the same stream a donor's readers behind the seam's norm make what they made at home."""
    model = tiny("gpt2", tmp_path, rows=2)
    engine = model.engine
    x = engine.embedded()[0]
    with engine.loaded(0) as first, engine.loaded(1) as second:
        seam, other = LoadedBlock(engine, 0, first), LoadedBlock(engine, 1, second)
        units = find_units(seam, ["attn.c_proj"], x)[0]
        assert units is not None
        with seam.lent(folded_readers(other, seam, units)):
            found = seam.taken(0, x, ["attn.c_proj"]).inputs["attn.c_proj"]
        home = other.taken(0, x, ["attn.c_proj"]).inputs["attn.c_proj"]
    assert torch.allclose(found, home, atol=1e-9)


def sums(x: torch.Tensor, y: torch.Tensor) -> Moments:
    found = Moments(x.shape[1], y.shape[1])
    found.add(x, y, torch.ones(len(x), dtype=x.dtype))
    found.reduce(lambda value: value)
    return found


def test_the_group_left_out_is_the_one_that_costs_least() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 12, generator=generator, dtype=torch.float64)
    y = torch.randn(300, 4, generator=generator, dtype=torch.float64) + x[:, :4]
    groups = torch.arange(12).view(4, 3)
    errors = []
    for out in range(4):
        rest = x[:, [column for column in range(12) if column // 3 != out]]
        solved = torch.linalg.lstsq(rest, y).solution
        errors.append(float(((y - rest @ solved) ** 2).sum()))
    kept = worth_keeping(sums(x, y), torch.zeros(4, 12, dtype=torch.float64), groups, 3, 1e-12)
    assert set(range(4)) - set(kept.tolist()) == {errors.index(min(errors))}


def test_units_that_make_the_target_are_kept() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 40, generator=generator, dtype=torch.float64)
    wanted = torch.tensor([3, 7, 21, 22, 30])
    y = x[:, wanted] @ torch.randn(5, 6, generator=generator, dtype=torch.float64)
    groups = torch.arange(39)[:, None]  # the last column belongs to none: it stays
    kept = worth_keeping(sums(x, y), torch.zeros(6, 40, dtype=torch.float64), groups, 5, 1e-10)
    assert kept.tolist() == wanted.tolist()
