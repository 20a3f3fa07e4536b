"""A working directory with what a page names, and a Hub that serves tiny models under real ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.files import make_files, with_recipes
from tests.docs.models import MODELS, files_of
from tests.docs.running import Made
from tests.hub.client import point_at
from tests.hub.server import Hub, serving
from tests.less_text import less_text

Desk = Callable[[str], Path]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models are made, each when a page first names it."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def page_hub() -> Iterator[Hub]:
    with serving() as known:
        yield known


@pytest.fixture
def little_text() -> Iterator[None]:
    """Figures are not looked at, so a little text will do."""
    with less_text(1024):
        yield


@pytest.fixture
def desk(
    page_hub: Hub,
    models: Path,
    little_text: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Desk:
    """`desk(text)` → a fresh working directory, with what the page's text names."""

    def prepare(text: str) -> Path:
        page_hub.repositories.clear()
        named = with_recipes(text)
        for name in MODELS:
            if name in named:
                page_hub.make(name, files_of(name, models), private=False)
        directory = tmp_path / "desk"
        directory.mkdir()
        make_files(text, directory)
        point_at(page_hub.url, monkeypatch, tmp_path)
        monkeypatch.chdir(directory)
        monkeypatch.syspath_prepend(str(directory))
        return directory

    return prepare
