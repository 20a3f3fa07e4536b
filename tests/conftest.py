"""What every test gets: no network, no chatter, tiny models built once a session."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.digits import train_classifier
from tests.families import build

# The same examples in every run, and no test that fails because the machine is busy.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")

TRAINED = Path(__file__).parent / "data" / "tiny-gpt2-6x96"

Tiny = Callable[..., Path]


def pytest_collection_finish() -> None:
    """What the libraries hold lives to the end: looking through it took a sixth of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """`tiny(family, dtype="float32", seed=0)` → a directory with a tiny random checkpoint.

    Built once a session and shared: tests must not write into it.
    """
    root = tmp_path_factory.mktemp("tiny")
    built: dict[tuple[str, str, int], Path] = {}

    def make(family: str, *, dtype: str = "float32", seed: int = 0) -> Path:
        key = (family, dtype, seed)
        if key not in built:
            built[key] = root / f"{family}-{dtype}-{seed}"
            build(family, built[key], seed=seed, dtype=dtype)
        return built[key]

    return make


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`classifier(name)` → a checkpoint of `tests.digits`; read only.

    Trained once, however many processes run the tests: the others wait for the first.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str) -> Path:
        directory = root / f"classifier-{name}"
        with FileLock(root / f"{name}.lock"):
            if not directory.exists():
                train_classifier(name, directory)
        return directory

    return make


@pytest.fixture(scope="session")
def trained() -> Path:
    """The small trained GPT-2 that the project ships (float32, tied head, with a tokenizer)."""
    return TRAINED
