"""The walk: what is fitted, what is refused, what is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from normsurgery.calibrate.fit.gram import Moments
from normsurgery.errors import UnsupportedModelError, UsageError
from tests.calibrate.fit.walking import Tiny, tiny


def counted(model: Tiny, x: torch.Tensor) -> torch.Tensor:
    """Rows of the tokens that count: all but position 0."""
    return x[:, 1:].flatten(0, 1)


def replaced_in_memory(model: Tiny, seam: int, dropped: int) -> dict[str, torch.Tensor]:
    """ReplaceMe from its formula: T = (MᵀM)⁻¹MᵀR, on the rows themselves."""
    engine = model.engine
    streams = model.streams()
    writer = model.writers[seam][-1]
    x, target = streams[seam], streams[seam + 1 + dropped]
    with engine.loaded(seam) as module, torch.no_grad():
        names = [one.weight for one in (writer, *writer.siblings)]
        names += [one.bias for one in (writer, *writer.siblings) if one.bias is not None]
        values = {name: module.get_parameter(name).data.clone() for name in names}
        for name in names:
            module.get_parameter(name).data.zero_()
        sizes = [len(batch.ids) for batch in engine.batches]
        rest = torch.cat(
            [engine.run(module, seam, k, piece) for k, piece in enumerate(x.split(sizes))]
        )
    m, missing = (counted(model, y) for y in (streams[seam + 1] - rest, target - rest))
    transform = torch.linalg.lstsq(m, missing).solution
    result = {}
    for one in (writer, *writer.siblings):
        weight = values[one.weight]
        result[one.weight] = weight @ transform if one.transposed else transform.T @ weight
        if one.bias is not None:
            result[one.bias] = values[one.bias] @ transform
    return result


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "mixtral", "qwen3_moe", "granite"])
def test_replaceme_is_its_formula(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path)
    fitted = model.fitted(1, substitute="replaceme", heal="none")
    expected = replaced_in_memory(model, 0, 1)
    prefix = model.engine.stack.blocks[0]
    assert set(fitted.weights) == {f"{prefix}.{name}" for name in expected}
    for parameter, value in expected.items():
        found = fitted.weights[f"{prefix}.{parameter}"].double()
        # one rounding to float32, the storage dtype
        assert torch.allclose(found, value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def test_cosine_turns_the_stream_towards_the_target(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path)
    cosine = model.fitted(1, substitute="replaceme", objective="cosine", heal="none")
    squares = model.fitted(1, substitute="replaceme", heal="none")
    assert cosine.record[0]["after"] < cosine.record[0]["before"]
    assert squares.record[0]["after"] < cosine.record[0]["after"]


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_norm_behind_the_mlp_refuses_replaceme(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path, rows=4)
    with pytest.raises(UnsupportedModelError, match=r"a norm .* stands between"):
        model.fitted(1, substitute="replaceme", heal="none")
    skipped = model.fitted(1, substitute="refit").record
    assert {line["writer"] for line in skipped} == {"self_attn.o_proj", "mlp.down_proj"}
    assert all("a norm stands between" in line["skipped"] for line in skipped)


def seam_error(model: Tiny, weights: dict[str, torch.Tensor], seam: int, after: int) -> float:
    """Relative squared error of the seam's output against the stream before block `after`."""
    engine, streams = model.engine, model.streams()
    prefix = f"{engine.stack.blocks[seam]}."
    with engine.loaded(seam) as module, torch.no_grad():
        for name, value in weights.items():
            if name.startswith(prefix):
                module.get_parameter(name.removeprefix(prefix)).data = value.double()
        sizes = [len(batch.ids) for batch in engine.batches]
        found = torch.cat(
            [engine.run(module, seam, k, x) for k, x in enumerate(streams[seam].split(sizes))]
        )
    size = counted(model, streams[after]).square().mean(1, keepdim=True)
    wrong = counted(model, found - streams[after]).square() / size
    return float(wrong.mean())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_each_substitute_fits_better_than_the_one_before(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path, rows=120)
    errors = [
        seam_error(model, model.fitted(1, substitute=kind, heal="none").weights, 0, 2)
        for kind in ("replaceme", "refit")
    ]
    plain = seam_error(model, {}, 0, 2)
    assert errors[0] < plain
    assert errors[1] < errors[0]
    merged = seam_error(model, model.fitted(1, substitute="merge", heal="none").weights, 0, 2)
    assert merged < plain


def test_units_of_the_dropped_block_are_taken_where_they_are_what_is_missing(
    tmp_path: Path,
) -> None:
    """Block 0 adds nothing: all that the seam is to make is what block 1 makes of the same stream.

    Its neurons make it, read through the seam's norm.
    """
    model = tiny("llama", tmp_path, rows=60)
    silence(model, 0)
    plain = seam_error(model, {}, 0, 2)
    merged = model.fitted(1, substitute="merge", heal="none")
    taken = {line["writer"]: line["taken over"] for line in merged.record}
    assert taken["mlp.down_proj"] > 90
    assert seam_error(model, merged.weights, 0, 2) < 0.1 * plain


def silence(model: Tiny, block: int) -> None:
    """Make what a block adds zero, in the checkpoint that is read."""
    checkpoint, names = model.engine.checkpoint, model.engine.examination.names
    edits = {}
    for writer in model.writers[block]:
        disk = names.on_disk(f"{model.engine.stack.blocks[block]}.{writer.weight}")[0][0]
        edits[disk] = checkpoint[disk].map(torch.zeros_like)
    changed = checkpoint.override(edits)
    model.engine.checkpoint = model.engine.loader.checkpoint = changed


def test_nothing_is_changed_where_nothing_is_missing(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path)
    silence(model, 2)
    fitted = model.fitted(2, substitute="refit")
    assert fitted.record
    assert not any(line["accepted"] for line in fitted.record)
    assert fitted.weights == {}


def test_healing_brings_the_last_stream_closer(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path, rows=120)
    cut, healed = (
        model.fitted(1, substitute="refit", heal=heal, losses=True)
        for heal in ("none", "sequential")
    )
    assert set(cut.weights) < set(healed.weights)
    later = [line for line in healed.record if line["block"] > 0]
    assert [line["block"] for line in later] == [2, 3]
    assert all(line["after"] < line["before"] for line in later if line["accepted"])
    assert any(line["accepted"] for line in later)


def test_a_cut_before_the_first_kept_block_is_healed_behind_it(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path, rows=120)
    fitted = model.fitted(0)
    assert [line["block"] for line in fitted.record] == [1, 2, 3]
    assert fitted.record[0]["after"] < fitted.record[0]["before"]


def test_the_same_text_gives_the_same_weights(tmp_path: Path) -> None:
    model = tiny("gpt2", tmp_path, rows=60)
    first, second = (model.fitted(1).weights for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_too_few_tokens_are_an_error_and_few_a_warning(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tokens"):
        tiny("llama", tmp_path / "few", rows=3, time=12).fitted(1, substitute="refit")
    fitted = tiny("llama", tmp_path / "some", rows=20, time=24).fitted(1, substitute="refit")
    assert any("below 4" in note for note in fitted.notes)


@pytest.mark.parametrize(
    "wrong",
    [{"substitute": "linear"}, {"heal": "all"}, {"objective": "mse"}, {"held": 0.0}],
)
def test_an_unknown_plan_is_an_error(wrong: dict[str, Any], tmp_path: Path) -> None:
    model = tiny("llama", tmp_path, rows=4)
    with pytest.raises(UsageError):
        model.fitted(1, **wrong)


def test_several_processes_add_up(tmp_path: Path) -> None:
    """Two halves' moments, added, are the whole's."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    whole, halves = Moments(6, 6), [Moments(6, 6), Moments(6, 6)]
    whole.add(x, x, torch.ones(80, dtype=torch.float64))
    for half, piece in zip(halves, x.split(40), strict=True):
        half.add(piece, piece, torch.ones(40, dtype=torch.float64))
        half.reduce(lambda value: value)
    whole.reduce(lambda value: value)
    assert torch.allclose(halves[0].gram + halves[1].gram, whole.gram, atol=1e-12)
