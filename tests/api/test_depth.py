"""`inspect` tells which stacks there are, and its rows on depth keep what they promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import normsurgery
from normsurgery.anatomy.block_writers import block_writers
from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.stacks import read_stacks
from normsurgery.api import depth
from normsurgery.calibrate.witness import forms_on_twin
from normsurgery.checkpoint import open_checkpoint
from tests.anatomy.test_stacks import ALBERT
from tests.conftest import Tiny
from tests.families import build_spec
from tests.surgery.zoo import ZOO, Spec

OTHERS = ("convert", "fold", "remove-ln")  # surgeries that leave the depth alone
LIST, COUNT, FIT = "prune --drop LIST", "prune --drop N", "prune --heal sequential"
ARRANGE, ZERO, HEAL = "arrange", "arrange, only zero blocks added", "heal"

Inspected = Callable[[Spec], dict[str, Any]]


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Inspected:
    """`inspected(spec)` → the document, with its rows on depth by name under `rows`."""

    def make(spec: Spec) -> dict[str, Any]:
        directory: Path = tmp_path_factory.mktemp("depth") / "model"
        build_spec(spec, directory)
        return with_rows(directory)

    return make


def with_rows(directory: Path) -> dict[str, Any]:
    document = normsurgery.inspect(directory).to_dict()
    rows = {row["name"]: row for row in document["surgeries"]}
    return {**document, "rows": {k: v for k, v in rows.items() if not k.startswith(OTHERS)}}


def test_a_language_model_can_do_all_of_it(inspected: Inspected) -> None:
    document = inspected(ZOO["llama"])
    assert document["stacks"] == [
        {
            "name": "model.layers", "depth": 6, "width": 32, "keys": [["num_hidden_layers"]],
            "language": True, "why_not": None,
        }
    ]  # fmt: skip
    rows = document["rows"]
    assert {name: row["contract"] for name, row in rows.items()} == {
        LIST: "lossy", COUNT: "lossy", FIT: "fitted", ARRANGE: "lossy", ZERO: "exact",
        HEAL: "trained",
    }  # fmt: skip
    assert all(row["applies"] and row["target"] == "stock" for row in rows.values())
    assert rows[LIST]["reason"] == "6 blocks of model.layers"


def test_two_towers_are_both_named(inspected: Inspected) -> None:
    rows = inspected(ZOO["qwen2_vl"])["rows"]
    both = "4 blocks of model.visual.blocks, 6 blocks of model.language_model.layers"
    assert rows[ARRANGE]["reason"] == rows[ZERO]["reason"] == both
    assert rows[FIT]["reason"] == "6 blocks of model.language_model.layers"


@pytest.mark.parametrize(
    ("family", "applying", "name", "reason"),
    [
        ("bert", {LIST, ARRANGE}, ZERO, "post-LN"),
        ("bert", {LIST, ARRANGE}, COUNT, "left to right"),
        ("whisper", {LIST, ARRANGE, ZERO}, COUNT, "its input is input_features"),
        ("whisper", {LIST, ARRANGE, ZERO}, HEAL, "does not predict the next token"),
        ("swin", {LIST, ARRANGE, ZERO}, FIT, "no language head"),
    ],
)
def test_what_does_not_apply_says_why(
    inspected: Inspected, family: str, applying: set[str], name: str, reason: str
) -> None:
    rows = inspected(ZOO[family])["rows"]
    assert {key for key, row in rows.items() if row["applies"]} == applying
    assert reason in rows[name]["reason"]


def test_a_stack_whose_blocks_cannot_move_says_why(inspected: Inspected) -> None:
    document = inspected(ALBERT)
    assert "more than once" in document["stacks"][0]["why_not"]
    assert not any(row["applies"] for row in document["rows"].values())
    assert "more than once" in document["rows"][ARRANGE]["reason"]


@pytest.mark.parametrize("family", ["gpt2", "bloom", "whisper", "clip", "bert", "falcon_alibi"])
def test_what_inspect_promises_arrange_keeps(tiny: Tiny, tmp_path: Path, family: str) -> None:
    """A row that applies runs, one that does not is refused: on every stack."""
    document = with_rows(tiny(family))

    def planned(blocks: str, stack: str) -> Any:
        result = normsurgery.arrange(
            tiny(family), tmp_path / "out", blocks=blocks, stack=stack, dry_run=True
        )
        return result.to_dict()["plan"]

    for stack in document["stacks"]:
        last = stack["depth"] - 1
        for name, blocks in ((ARRANGE, f"0-{last - 1}"), (ZERO, f"0-{last},zero")):
            row = document["rows"][name]
            if row["applies"]:
                assert planned(blocks, stack["name"])["contract"] == row["contract"]
            else:
                with pytest.raises(normsurgery.UnsupportedModelError, match="post-LN"):
                    planned(blocks, stack["name"])


def test_a_deep_model_is_asked_through_a_few_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, config, values = ZOO["llama"]
    build_spec((name, config, {**values, "num_hidden_layers": 9}), tmp_path / "model")
    examination = examine(open_checkpoint(tmp_path / "model"))
    asked: list[int] = []
    writers, forms = block_writers, forms_on_twin

    def count_writers(examination: Any, stack: Any) -> Any:
        asked.append(len(stack.blocks))
        return writers(examination, stack)

    def count_forms(twin: Any, blocks: Any) -> Any:
        asked.append(len(blocks))
        return forms(twin, blocks)

    monkeypatch.setattr(depth, "block_writers", count_writers)
    monkeypatch.setattr(depth, "forms_on_twin", count_forms)
    rows = depth.depth_surgeries(examination, read_stacks(examination))
    assert asked == [2, 2]
    assert rows[0]["reason"] == "9 blocks of model.layers"


def test_a_model_without_blocks_has_nothing_to_drop(tiny: Tiny) -> None:
    examination = examine(open_checkpoint(tiny("gpt2")))
    rows = {row["name"]: row for row in depth.depth_surgeries(examination, ())}
    assert {name for name, row in rows.items() if row["applies"]} == {HEAL}
    assert rows[ZERO]["reason"] == "it has no stack of repeated blocks"
