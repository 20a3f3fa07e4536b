"""The Python in a model card, executed as it stands, for every surgery."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.report.card_parts import WHERE, parts_of
from normsurgery.report.front_matter import split
from tests.api.characters import with_characters
from tests.batchnorm_families import build_batch_norms
from tests.families import build
from tests.surgery.fold_models import with_processor

SHORT: dict[str, Any] = {"tokens": 1500, "max_length": 64}
FAST: dict[str, Any] = {"verify": False}


class Case(NamedTuple):
    """source: its name; surgery: (source, output) → nothing. exact: whether outputs are the
    source's. ways: how many blocks of code the card has. says: in what the code prints."""

    source: str
    surgery: Callable[[Path, Path], Any]
    exact: bool
    ways: int = 1


def convert(**options):
    return lambda source, out: normsurgery.convert(source, out, **FAST, **options)


def fold(what, **options):
    return lambda source, out: normsurgery.fold(source, out, what=what, **FAST, **options)


def fold_bn(form):
    return lambda source, out: normsurgery.fold_bn(source, out, form=form, **FAST)


def prune(**options):
    return lambda source, out: normsurgery.prune(source, out, **FAST, **options)


def one_shot(export):
    return lambda source, out: normsurgery.remove_ln(
        source, out, one_shot=True, export=export, **SHORT, **FAST
    )


def arrange(source, out):
    normsurgery.arrange(source, out, blocks="0,2", **FAST)


def longer(source, out):
    normsurgery.arrange(source, out, blocks="0,zero,1-2", **FAST)


def arrange_graft(source, out):
    """The class that it loads in is a modeling file's, and stays so."""
    graft = out.parent / "graft"
    normsurgery.convert(source, graft, target="graft", **FAST)
    normsurgery.arrange(graft, out, blocks="0,2", trust_remote_code=True, **FAST)
    shutil.rmtree(graft)


def heal(source, out):
    cut = out.parent / "cut"
    normsurgery.arrange(source, cut, blocks="0,2", **FAST)
    normsurgery.heal(
        cut, out, teacher=source, train="full", steps=2, batch_size=2, device="cpu", **SHORT, **FAST
    )
    shutil.rmtree(cut)


def recipe(source, out):
    longer = {"surgery": "arrange", "blocks": "0,zero,1-2"}
    steps = [{"surgery": "convert", "target": "stock"}, longer]
    path = out.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump({"device": "cpu", "verify": False, "steps": steps}))
    normsurgery.run(path, overrides=[f"source={source}", f"output={out}"])


CASES = {
    "convert-stock": Case("gpt2", convert(target="stock"), exact=True, ways=2),
    "convert-native": Case("olmo", convert(target="native"), exact=True),
    "convert-crmsnorm": Case("gpt2", convert(to="crmsnorm"), exact=True),
    "convert-encoder": Case("esm", convert(target="graft"), exact=True),
    "convert-classifier": Case("vit", convert(target="stock"), exact=True, ways=2),
    "fold-bn-keep": Case("resnet", fold_bn("keep"), exact=True),
    "fold-bn-graft": Case("resnet", fold_bn("graft"), exact=True),
    "fold-bn-native": Case("dpt", fold_bn("native"), exact=True),
    "fold-norm": Case("gpt2", fold("norm"), exact=True),
    "fold-rotate": Case("gpt2", fold("norm,rotate", untie=True), exact=True),
    "fold-layerscale": Case("dinov2", fold("layerscale"), exact=True),
    "prune": Case("gpt2", prune(drop="1"), exact=False),
    "prune-substitute": Case("gpt2", prune(drop="1", substitute="refit", **SHORT), exact=False),
    "arrange": Case("gpt2", arrange, exact=False),
    "arrange-longer": Case("gpt2", longer, exact=True),
    "arrange-graft": Case("gpt2", arrange_graft, exact=False),
    "heal": Case("gpt2", heal, exact=False),
    "remove-ln-graft": Case("gpt2", one_shot("graft"), exact=False),
    "remove-ln-stock": Case("gpt2", one_shot("stock"), exact=False),
    "recipe": Case("gpt2", recipe, exact=True),
}
READS_TEXT = ("gpt2", "olmo")
BATCH_NORMS = ("resnet", "dpt")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """`source(name)` → (directory, model) of a tiny model with what prepares its inputs."""
    root = tmp_path_factory.mktemp("sources")
    made: dict[str, tuple[Path, Any]] = {}

    def make(name: str) -> tuple[Path, Any]:
        if name not in made:
            made[name] = _made(name, root)
        return made[name]

    return make


def _made(name: str, root: Path) -> tuple[Path, Any]:
    directory = root / name
    model = (build_batch_norms if name in BATCH_NORMS else build)(name, directory)
    if name in READS_TEXT:
        directory = with_characters(directory, root / f"{name}-reads")
        with quiet():
            model = type(model).from_pretrained(directory).eval()
    elif name != "esm":
        size = getattr(model.config, "image_size", 32)
        with_processor(directory, size={"height": size, "width": size})
    return directory, model


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few tokens are judged; modeling files are imported from a folder of this test's own."""
    monkeypatch.setattr("normsurgery.api.texts.JUDGED_TOKENS", 256)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))


def blocks_of(directory: Path) -> list[str]:
    ours = parts_of(split((directory / "README.md").read_text())[1]).ours
    assert ours is not None
    return re.findall(r"```python\n(.*?)```", ours, re.S)


def executed(code: str) -> tuple[dict[str, Any], str]:
    """The names that the code leaves behind, and what it prints."""
    names: dict[str, Any] = {}
    said = io.StringIO()
    with quiet(), contextlib.redirect_stdout(said):
        exec(compile(code, "card", "exec"), names)
    return names, said.getvalue()


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = getattr(model.config, "image_size", 32)
        return {"pixel_values": torch.randn(2, 3, size, size)}
    return {"input_ids": torch.randint(4, 33, (2, 12))}


@pytest.mark.parametrize("name", CASES)
def test_the_code_of_the_card_runs_as_it_stands(name, source, tmp_path, monkeypatch):
    case = CASES[name]
    directory, original = source(case.source)
    out = tmp_path / WHERE
    out.parent.mkdir(parents=True)
    case.surgery(directory, out)
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(out)
    assert len(blocks) == case.ways
    inputs = inputs_of(original)
    with torch.no_grad():
        wanted = original(**inputs)[0]
        for code in blocks:
            names, said = executed(code)
            found = names["model"].eval()(**inputs)[0]
            assert found.shape == wanted.shape and torch.isfinite(found).all()
            error = float((found - wanted).abs().max() / wanted.std())
            assert (error < 1e-3) == case.exact, error
            assert bool(said.strip()) == (case.source != "esm")
