"""An interrupted calibration goes on where it was, and gives the same numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.resume import Work, fingerprint
from normsurgery.calibrate.scoring.scores import score_windows
from normsurgery.errors import UsageError
from tests.calibrate.language_models import LANGUAGE_MODELS, text_rows
from tests.calibrate.test_blockwise import opened
from tests.families import build_spec

LENGTHS = (30, 22, 30, 14, 30, 30)
METHODS = ("angular", "influence", "fit", "loss")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    build_spec(LANGUAGE_MODELS["llama"], directory)
    return directory


class Counted:
    """An engine that notes which blocks it loads, and fails at the load of number `fails`."""

    def __init__(self, source: Path, fails: int | None = None) -> None:
        self.engine = opened(source, *LENGTHS)
        self.loads: list[int] = []
        self.fails = fails
        self._loaded = self.engine.loaded
        self.engine.loaded = self._counted  # type: ignore[method-assign]

    @contextmanager
    def _counted(self, block: int) -> Iterator[nn.Module]:
        if len(self.loads) == self.fails:
            raise KeyboardInterrupt
        self.loads.append(block)
        with self._loaded(block) as module:
            yield module


def work_of(engine: Blockwise, directory: Path, **parameters: Any) -> Work:
    return Work(directory, fingerprint(engine.checkpoint, engine.rows, **parameters))


@pytest.mark.parametrize(
    ("methods", "fails"),
    [
        (METHODS[:3], 0),
        (METHODS[:3], 1),
        (METHODS[:3], 3),
        (("loss",), 1),
        (("loss",), 3),
        (METHODS, 2),
        (METHODS, 4),
        (METHODS, 6),
    ],
)
def test_only_the_remaining_blocks_are_loaded(
    methods: tuple[str, ...], fails: int, llama: Path, tmp_path: Path
) -> None:
    whole = Counted(llama)
    wanted = score_windows(whole.engine, 2, methods)
    first = Counted(llama, fails)
    work = work_of(first.engine, tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        score_windows(first.engine, 2, methods, work=work)
    again = Counted(llama)
    work = work_of(again.engine, tmp_path / "work")
    assert score_windows(again.engine, 2, methods, work=work) == wanted
    assert first.loads + again.loads == whole.loads
    work.finish()
    assert not (tmp_path / "work").exists()


def test_a_finished_pass_is_not_run_again(llama: Path, tmp_path: Path) -> None:
    first, second = Counted(llama), Counted(llama)
    wanted = score_windows(first.engine, 2, METHODS, work=work_of(first.engine, tmp_path))
    assert score_windows(second.engine, 2, METHODS, work=work_of(first.engine, tmp_path)) == wanted
    assert (len(first.loads), second.loads) == (8, [])


def test_other_methods_do_not_take_up_what_was_left(llama: Path, tmp_path: Path) -> None:
    first, second = Counted(llama), Counted(llama)
    work = work_of(first.engine, tmp_path)
    score_windows(first.engine, 2, ("influence",), work=work)
    scores = score_windows(second.engine, 2, ("angular", "influence"), work=work)
    assert set(scores.windows[0].scores) == {"angular", "influence"}
    assert len(second.loads) == 4


def test_another_question_starts_anew(llama: Path, tmp_path: Path) -> None:
    first, second = Counted(llama), Counted(llama)
    score_windows(first.engine, 2, METHODS, work=work_of(first.engine, tmp_path, ridge=1e-4))
    score_windows(second.engine, 2, METHODS, work=work_of(first.engine, tmp_path, ridge=1e-3))
    assert len(second.loads) == 8


def test_the_fingerprint_tells_what_the_numbers_depend_on(llama: Path, tmp_path: Path) -> None:
    engine = opened(llama, *LENGTHS)
    prints = {fingerprint(engine.checkpoint, engine.rows, dtype="float32")}
    prints.add(fingerprint(engine.checkpoint, engine.rows, dtype="float64"))
    prints.add(fingerprint(engine.checkpoint, text_rows(*LENGTHS, seed=1), dtype="float32"))
    build_spec(LANGUAGE_MODELS["llama"], tmp_path, seed=1)
    other = opened(tmp_path)
    prints.add(fingerprint(other.checkpoint, engine.rows, dtype="float32"))
    os.utime(other.checkpoint.weight_files[0], (1, 1))
    prints.add(fingerprint(other.checkpoint, engine.rows, dtype="float32"))
    assert len(prints) == 5


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(UsageError, match="not a directory of ours"):
        Work(tmp_path, "0")
    assert (tmp_path / "thesis.tex").read_text() == "chapter 1"


def test_a_torn_file_does_not_count(tmp_path: Path) -> None:
    part = Work(tmp_path, "0").part("pass")
    assert part.load() is None
    part.save(1, {"stream": [torch.ones(3)]})
    (tmp_path / "pass.0.2.part").write_bytes(b"half of it")
    found = part.load()
    assert found is not None
    assert found[0] == 1
    assert torch.equal(found[1]["stream"][0], torch.ones(3))
