"""`heal` in two processes: one writes and speaks, and both together train as one would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from normsurgery.cli import main
from tests.cli.invoke import ROOT, environment

MODEL = str(ROOT / "tests" / "data" / "tiny-gpt2-6x96")
ASKED = ["--teacher", MODEL, "--tokens=3000", "--max-length=32", "--steps=4", "--no-verify"]
ASKED += ["--device=cpu", "--train=full", "--lr=1e-2", "--batch-size=4", "--json"]
LAUNCH = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batches(tmp_path, capsys):
    out = tmp_path / "two"
    done = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "normsurgery", "heal", MODEL, "-o", str(out), *ASKED],
        env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # of one process
    alone = ["heal", MODEL, "-o", str(tmp_path / "one"), *ASKED, "--gradient-accumulation=2"]
    assert main(alone) == 0
    wanted = json.loads(capsys.readouterr().out)["training"]
    assert [loss for _, loss in document["training"]["loss"]] == pytest.approx(
        [loss for _, loss in wanted["loss"]], rel=1e-4
    )
    assert document["training"]["tokens"] == wanted["tokens"]
    two, one, before = (
        load_file(path / "model.safetensors") for path in (out, tmp_path / "one", Path(MODEL))
    )
    for name in one:
        moved = (one[name] - before[name]).abs().max()
        assert (two[name] - one[name]).abs().max() <= 0.02 * moved
    assert not torch.equal(one["transformer.wte.weight"], before["transformer.wte.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
