"""Two processes are one with twice the accumulation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORKER = ["-m", "tests.train.removal.worker"]
# `--cpu` starts one process whatever it is told; without a GPU this starts two on the CPU
LAUNCH = [
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
    "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip


def train(tmp_path, name, launcher, models, accumulation):
    work = tmp_path / name
    work.mkdir()
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, *launcher, *WORKER, models[0], work, models[1], accumulation]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads((work / "losses.json").read_text())


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_twice_the_accumulation(tiny, tmp_path):
    models = (tiny("llama"), tiny("llama", seed=1))
    one = train(tmp_path, "one", [], models, 4)
    two = train(tmp_path, "two", LAUNCH, models, 2)
    for part in ("loss", "ce"):
        first, second = ([value for _, value in made[part]] for made in (one, two))
        assert len(first) == 10 and len(set(first)) == 10
        assert first == pytest.approx(second, rel=1e-5)
    assert one["final"] == pytest.approx(two["final"], rel=1e-5)
    assert one["sigmas"] == pytest.approx(two["sigmas"], rel=1e-6)
