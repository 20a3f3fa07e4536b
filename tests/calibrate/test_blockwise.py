"""A model run block by block gives what its own forward gives, with one block in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError
from tests.calibrate.language_models import LANGUAGE_MODELS, SEVERAL_STREAMS, text_rows
from tests.families import FAMILIES, build_spec


def opened(source: Path, *lengths: int, **options: Any) -> Blockwise:
    checkpoint = open_checkpoint(source)
    examination = examine(checkpoint)
    stack = choose_stack(read_stacks(examination))
    rows = text_rows(*(lengths or (12, 9, 12, 5)))
    return Blockwise(
        checkpoint, examination, stack, rows,
        **{"dtype": torch.float64, "batch_rows": 2, **options},
    )  # fmt: skip


def through(engine: Blockwise) -> Any:
    """The stream after all blocks, every float32 cast in model code answered in float64."""
    with Float64():
        states = engine.embedded()
    for block in engine.order:
        with engine.loaded(block) as module, Float64(), torch.no_grad():
            for batch in range(len(engine.batches)):
                states[batch] = engine.run(module, block, batch, states[batch])
    return states


def own_model(directory: Path) -> Any:
    import transformers

    name = open_checkpoint(directory).config["architectures"][0]
    with quiet():
        return (
            getattr(transformers, name)
            .from_pretrained(directory, dtype=torch.float64, experts_implementation="eager")
            .eval()
        )


def own_rows(
    model: Any, engine: Blockwise
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """(batch, row, ids, logits) of the model's own forward on each row alone, without pads."""
    for index, batch in enumerate(engine.batches):
        for row in range(len(batch.ids)):
            ids = batch.ids[row : row + 1, : int(batch.mask[row].sum())]
            with torch.no_grad():
                yield index, row, ids[0], model(input_ids=ids).logits[0]


def assert_like(engine: Blockwise, states: Any, model: Any) -> None:
    for index, row, ids, plain in own_rows(model, engine):
        ours = engine.logits(engine.batches[index].ids, states[index])[row, : len(ids)]
        assert (ours - plain).abs().max() <= 1e-12 * plain.abs().max()


def own_losses(model: Any, engine: Blockwise) -> torch.Tensor:
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(plain[:-1], ids[1:], reduction="none")
            for _, _, ids, plain in own_rows(model, engine)
        ]
    )


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_it_gives_what_the_models_own_forward_gives(family: str, tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS[family], tmp_path)
    engine = opened(tmp_path)
    states = through(engine)
    model = own_model(tmp_path)
    with Float64():
        losses = engine.token_losses(states)
        assert_like(engine, states, model)
        wanted = own_losses(model, engine)
    torch.testing.assert_close(torch.cat(losses), wanted, rtol=1e-12, atol=1e-12)


def test_at_most_one_block_is_resident(tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    engine = opened(tmp_path)

    def resident() -> list[int]:
        return [
            place
            for place, block in enumerate(engine.blocks)
            if any(not parameter.is_meta for parameter in block.parameters())
        ]

    seen = [resident()]
    for block in engine.order:
        with engine.loaded(block) as module:
            assert not any(parameter.is_meta for parameter in module.parameters())
            seen.append(resident())
        seen.append(resident())
    assert seen == [[], [0], [], [1], [], [2], [], [3], []]


def test_a_block_is_given_back_when_its_use_fails(tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    engine = opened(tmp_path)
    with pytest.raises(RuntimeError, match="stopped"), engine.loaded(1):
        raise RuntimeError("stopped")
    assert all(parameter.is_meta for parameter in engine.blocks[1].parameters())


def test_an_order_runs_the_blocks_that_it_names(tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["gemma2"], tmp_path)
    engine = opened(tmp_path, order=(0, 1, 3))
    model = own_model(tmp_path)
    # a block that adds nothing to the stream stands for one that is not there
    dropped = model.model.layers[2]
    dropped.forward = lambda hidden_states, *args, **kwargs: hidden_states
    states = through(engine)
    with Float64():
        assert_like(engine, states, model)


def test_equal_arguments_are_kept_once(tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["gemma2"], tmp_path)
    engine = opened(tmp_path, *[12] * 8)
    engine.embedded()
    assert len(engine.batches) == 4
    assert all(len(equal) <= 4 for equal in engine._pool.kept.values())
    alone = opened(tmp_path, *[12] * 2)
    alone.embedded()
    assert engine._pool.kept_bytes == alone._pool.kept_bytes


def test_arguments_that_are_too_large_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_spec(LANGUAGE_MODELS["gemma2"], tmp_path)
    kept = through(opened(tmp_path))
    monkeypatch.setattr("normsurgery.calibrate.blockwise._ARGUMENT_BYTES", 100)
    engine = opened(tmp_path)
    again = through(engine)
    assert engine._calls == [None, None]
    assert engine._pool.kept_bytes <= 100
    assert all(torch.equal(kept[batch], again[batch]) for batch in range(2))


def test_a_row_that_is_too_long_is_a_usage_error(tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["gpt2"], tmp_path)
    with pytest.raises(UsageError, match="rows of 65 tokens"):
        opened(tmp_path, 65, 65).embedded()


def test_large_predictions_are_made_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    engine = opened(tmp_path, 12, 9, 12, 5, batch_rows=4)
    states = through(engine)
    whole = engine.token_losses(states)
    monkeypatch.setattr("normsurgery.calibrate.blockwise._LOGITS_BYTES", 1)
    for left, right in zip(whole, engine.token_losses(states), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [(0, 4), (-1,)])
def test_a_block_that_does_not_exist_is_refused(order: tuple[int, ...], tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    with pytest.raises(UsageError, match="there is no block"):
        opened(tmp_path, order=order)


@pytest.mark.parametrize(
    ("family", "reason"), [("bert", "left to right"), ("vit", "from text"), ("whisper", "text")]
)
def test_what_does_not_predict_text_is_refused(family: str, reason: str, tmp_path: Path) -> None:
    build_spec(FAMILIES[family], tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    examination = examine(checkpoint)
    stack = read_stacks(examination)[0]
    with pytest.raises(UnsupportedModelError, match=reason):
        Blockwise(checkpoint, examination, stack, text_rows(4, 4))


def test_several_streams_side_by_side_are_refused(tmp_path: Path) -> None:
    build_spec(SEVERAL_STREAMS, tmp_path)
    with pytest.raises(UnsupportedModelError, match="the stream of Gemma3nForCausalLM"):
        opened(tmp_path)


def test_blocks_that_hand_on_more_than_the_stream_are_refused(tmp_path: Path) -> None:
    """A block that adds what an earlier one left behind cannot run by itself."""
    build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    examination = examine(checkpoint)
    stack = choose_stack(read_stacks(examination))
    layers = examination.twin.model.model.layers
    first, last = layers[0].forward, layers[3].forward
    left: dict[str, torch.Tensor] = {}

    def leaving(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        left["behind"] = hidden_states
        result: torch.Tensor = first(hidden_states, **kwargs)
        return result

    layers[0].forward = leaving
    layers[3].forward = lambda hidden_states, **kwargs: (
        last(hidden_states, **kwargs) + left["behind"]
    )
    with pytest.raises(UnsupportedModelError, match="hand on more than the stream"):
        Blockwise(checkpoint, examination, stack, text_rows(4, 4))
