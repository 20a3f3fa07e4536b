"""`make docs`: the site builds with no warning, loads nothing from elsewhere, and is complete."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import normsurgery
from normsurgery.recipe.editor import schema_text
from tests.docs.pages import DOCS, ROOT, blocks_of, pages

PATH = re.compile(r"(?<![\w/.])(?:benchmarks|tests|normsurgery|docs|recipes)(?:/[\w-]+)+(?:\.\w+)+")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a warning of mkdocs or of a plugin ends the build."""
    directory = tmp_path_factory.mktemp("site")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    with patch.context():
        logging.disable(logging.NOTSET)
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(directory)))
    patch.undo()
    return directory


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    tags = r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^\s>]*"
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(tags, text), path
        assert "fonts.googleapis" not in text
    for path in site.rglob("*.svg"):
        assert not re.search(r"url\(['\"]?http|@import", path.read_text(encoding="utf-8")), path


def test_formulas_are_mathml(site: Path) -> None:
    for path in DOCS.rglob("*.md"):
        shown = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        formulas = len(re.findall(r"\$\$.+?\$\$", shown, re.S))
        page = path.relative_to(DOCS).with_suffix("")
        where = site / (page.parent if page.name == "index" else page) / "index.html"
        html = where.read_text(encoding="utf-8")
        assert html.count('display="block"') == formulas, path
        assert not [one for one in re.findall(r"<math.*?</math>", html, re.S) if "\\" in one], path
        assert "arithmatex" not in html and "\\(" not in html, path


def test_every_command_recipe_key_and_public_name_is_there(site: Path) -> None:
    from normsurgery.cli.app import app

    commands = (site / "cli" / "index.html").read_text(encoding="utf-8")
    for info in app.registered_commands:
        assert info.callback is not None
        assert f"normsurgery {info.callback.__name__.replace('_', '-')}<" in commands
    for option in ("--fold-affine", "--substitute", "--keep-failed", "--report-to"):
        assert option in commands
    schema = json.loads(schema_text())
    steps = [step["properties"] for step in schema["$defs"].values() if "properties" in step]
    keys = {key for part in (schema["properties"], *steps) for key in part} - {"surgery"}
    recipes = (site / "recipes" / "index.html").read_text(encoding="utf-8")
    assert len(keys) > 20 and all(f"<code>{key}</code>" in recipes for key in keys)
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert f"<code>{path.stem}</code>" in recipes
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name, home in normsurgery._HOME_OF.items():
        assert f'id="normsurgery.{home}.{name}"' in api, name


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_links_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shown = {block.title for block in blocks_of(text)}
    new = "scale_stream" if path.name == "add-a-surgery.md" else "NAME"  # what the reader adds
    for name in set(PATH.findall(text)) - shown:
        assert new in name or "NAME" in name or (ROOT / name).exists(), name
    for link in LINK.findall(text):
        assert (path.parent / link).exists(), link
