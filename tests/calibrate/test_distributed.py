"""Several processes give the statistics of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from normsurgery.calibrate.distributed import Processes
from normsurgery.calibrate.scoring.scores import ScoreOptions, iterative_choice, score_windows
from normsurgery.errors import UsageError
from tests.calibrate.language_models import LANGUAGE_MODELS
from tests.calibrate.test_blockwise import opened
from tests.families import build_spec

METHODS = ("angular", "influence", "fit", "loss", "taylor")
LENGTHS = (30, 22, 30, 14, 30, 30, 9, 30, 30, 5)


def measured(source: Path, processes: Processes | None = None) -> dict[str, Any]:
    engine = opened(source, *LENGTHS, processes=processes)
    options = ScoreOptions(sample=200)
    scores = score_windows(engine, 2, METHODS, options=options)
    return {
        "scores": scores.to_list(),
        "loss": scores.loss,
        "dropped": list(iterative_choice(engine, 2, "angular").dropped),
        "batches": len(engine.batches),
    }


def test_one_process_alone_needs_no_launcher() -> None:
    alone = Processes.joined()
    assert (alone.rank, alone.count) == (0, 1)
    assert alone.gathered("x") == ["x"]
    assert alone.from_first("x") == "x"


def test_more_processes_than_batches_are_refused(tmp_path: Path) -> None:
    build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    with pytest.raises(UsageError, match="6 processes share 5 batches"):
        opened(tmp_path, *LENGTHS, processes=Processes(0, 6))


@pytest.mark.slow
def test_two_processes_give_the_statistics_of_one(tmp_path: Path) -> None:
    source = tmp_path / "model"
    build_spec(LANGUAGE_MODELS["llama"], source)
    ranks = _launched(source, tmp_path, 2)
    alone = measured(source)
    assert [rank["batches"] for rank in ranks] == [3, 2]
    for rank in ranks:
        assert rank["dropped"] == alone["dropped"]
        assert rank["loss"] == pytest.approx(alone["loss"], rel=1e-10)
        for ours, theirs in zip(rank["scores"], alone["scores"], strict=True):
            assert ours.pop("blocks") == theirs["blocks"]
            known = {method: score for method, score in ours.items() if score is not None}
            assert known.keys() == {m for m in METHODS if theirs[m] is not None}
            assert known == pytest.approx({m: theirs[m] for m in known}, rel=1e-10)


def _launched(source: Path, to: Path, count: int) -> list[dict[str, Any]]:
    """What `measured` says in each of `count` processes, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(source), str(to / f"{rank}.json")],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return [json.loads((to / f"{rank}.json").read_text()) for rank in range(count)]


if __name__ == "__main__":
    _source, _result = map(Path, sys.argv[1:])
    _result.write_text(json.dumps(measured(_source, Processes.joined(cpu=True))))
