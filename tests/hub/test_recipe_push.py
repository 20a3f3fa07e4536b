"""A recipe that ends on the Hub: looked at first, pushed last, and never a part of its papers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

import normsurgery
from normsurgery import HubError, UsageError
from normsurgery.api.publish import check_push, planned_push, pushed
from normsurgery.cli import main
from normsurgery.errors import NotPushedError
from normsurgery.recipe import Recipe, read_recipe
from normsurgery.report.next_steps import push_line
from tests.cli.invoke import Fake
from tests.conftest import Tiny
from tests.hub.conftest import CARD, files_of, write_output
from tests.hub.server import Hub, refused
from tests.report import documents
from tests.test_shipped_recipes import RECIPES, with_push

# huggingface_hub hands httpx a file in a way that httpx means to give up
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NORM = {"surgery": "fold", "what": "norm"}
LONGER = {"surgery": "arrange", "blocks": "0,zero,1-2"}
COMMIT = "POST /api/models/user/model/commit"


@pytest.fixture
def write(tmp_path: Path, tiny: Tiny) -> Any:
    def to_file(*steps: dict[str, Any], **more: Any) -> Path:
        path = tmp_path / "r.yaml"
        recipe = {"source": str(tiny("gpt2")), "output": str(tmp_path / "out"), "device": "cpu"}
        path.write_text(yaml.safe_dump({**recipe, "steps": list(steps or [NORM]), **more}))
        return path

    return to_file


def test_what_several_steps_made_is_pushed_and_what_pulls_it_is_the_same(
    hub: Hub, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(NORM, LONGER, push={"to": "user/model", "private": False, "message": "Both"})
    assert main(["run", str(recipe), "--set", "push.revision=v2"]) == 0
    made = hub.repositories["user/model"]
    assert not made.private and made.messages[-1] == "Both"
    assert set(made.files("main")) == {".gitattributes"}
    out = tmp_path / "out"
    there = {name: data for name, data in made.files("v2").items() if name != ".gitattributes"}
    assert there == files_of(out)
    printed = capsys.readouterr().out
    assert f"{hub.url}/user/model/tree/v2" in printed and "to everyone" in printed
    papers = json.loads((out / "surgery.json").read_text())
    assert "user/model" not in json.dumps(papers)
    assert set(papers["recipe"]) == {"source", "steps", "verify", "device", "seed"}


def test_a_dry_run_says_where_it_would_go_and_asks_the_hub_nothing(
    hub: Hub, write: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")
    recipe = write(push="user/model")
    changes = ["--set", "push.create_pr=true"]
    assert main(["run", str(recipe), *changes, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "as a pull request" in printed and "user/model" in printed
    assert "to you and your organization" in printed
    assert planned_push(read_recipe(recipe)) == {
        "repository": "user/model", "revision": "main", "private": True, "create_pr": False,
        "message": None, "unverified": False, "dry_run": True,
    }  # fmt: skip
    assert hub.requests == []


def test_a_shipped_recipe_pushes_once_its_comment_signs_are_gone(
    hub: Hub, tiny: Tiny, tmp_path: Path
) -> None:
    text = (RECIPES / "gpt2-to-rmsnorm.yaml").read_text(encoding="utf-8")
    (tmp_path / "r.yaml").write_text(with_push(text), encoding="utf-8")
    out = tmp_path / "out"
    changes = [f"source={tiny('gpt2')}", f"output={out}", "push.to=user/model", "device=cpu"]
    document = normsurgery.run(tmp_path / "r.yaml", overrides=changes).to_dict()
    made = hub.repositories["user/model"]
    assert document["push"]["commit"] == made.refs["main"]
    assert document["push"]["url"] == f"{hub.url}/user/model"
    assert document["push"]["verdict"] == document["verification"]["verdict"] == "pass"
    assert document["recipe"]["push"]["to"] == "user/model"
    assert made.files()["surgery.json"] == (out / "surgery.json").read_bytes()


def test_a_push_that_fails_leaves_the_output_and_says_how_to_go_on(
    hub: Hub, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults[COMMIT] = [refused(403, "read only token")]
    recipe = write(push={"to": "user/model", "message": "A title"})
    assert main(["run", str(recipe)]) == 7
    out = tmp_path / "out"
    printed = capsys.readouterr()
    assert "Load it" in printed.out and "Pushed" not in printed.out
    said = " ".join(printed.err.split())
    assert f"{out} is complete, but it was not pushed: your token may not write" in said
    again = f"normsurgery push {out} user/model --message 'A title'"
    assert said.endswith(f"; then: {again}")
    assert main(["push", str(out), "user/model", "--message", "A title"]) == 0
    assert hub.repositories["user/model"].messages[-1] == "A title"


def test_a_public_repository_is_no_place_for_a_private_push(hub: Hub, output: Path) -> None:
    hub.make("user/model", private=False)
    with pytest.raises(NotPushedError, match=r"was not pushed: user/model is public") as caught:
        pushed(Recipe("gpt2", str(output), (), {}, {"to": "user/model"}), {"a": 1}, None)
    assert caught.value.hint.endswith(f"; then: normsurgery push {output} user/model")
    assert (caught.value.exit_code, caught.value.document) == (7, {"a": 1})


def carded(tiny: Tiny, where: Path, licence: str) -> Path:
    shutil.copytree(tiny("gpt2"), where)
    (where / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    return where


@pytest.fixture
def surgery(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """What a refusal must come before."""
    fake = Fake(documents.convert_document())
    monkeypatch.setattr(normsurgery, "fold", fake)
    return fake


@pytest.mark.parametrize(
    ("push", "message"),
    [
        ({"to": "not a name"}, "not a name is not a valid Hub id"),
        ({"to": "a/b/c"}, "not a valid Hub id"),
        ({"to": "a/b", "create_pr": True, "revision": "v2"}, "always against main"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_the_first_step(
    hub: Hub, write: Any, surgery: Fake, push: dict[str, Any], message: str
) -> None:
    for dry_run in (False, True):
        with pytest.raises(UsageError, match=message):
            normsurgery.run(write(push=push), dry_run=dry_run)
    assert surgery.calls == [] and hub.requests == []


def test_a_push_offline_or_by_nobody_is_refused_before_the_first_step(
    hub: Hub, write: Any, surgery: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="there is no token"):
        normsurgery.run(write(push="user/model"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="offline"):
        normsurgery.run(write(push="user/model"))
    assert surgery.calls == [] and hub.requests == []


def test_a_licence_without_derivatives_is_refused_before_the_first_step(
    hub: Hub, write: Any, surgery: Fake, tiny: Tiny, tmp_path: Path
) -> None:
    source = carded(tiny, tmp_path / "nd", "cc-by-nd-4.0")
    with pytest.raises(UsageError, match="cc-by-nd-4"):
        normsurgery.run(write(push="user/model", source=str(source)))
    card = (source / "README.md").read_bytes()
    hub.make("them/nd", {"README.md": card, "model.safetensors": b"large"})
    with pytest.raises(UsageError, match="cc-by-nd-4"):
        normsurgery.run(write(push="user/model", source="them/nd"))
    assert surgery.calls == []
    assert hub.asked("GET /them/nd/resolve/main/model.safetensors") == 0  # the card alone


def test_a_licence_does_not_stop_one_who_has_permission(
    hub: Hub, write: Any, tiny: Tiny, tmp_path: Path
) -> None:
    source = carded(tiny, tmp_path / "nd", "cc-by-nd-4.0")
    push = {"to": "user/model", "i_have_permission": True}
    check_push(read_recipe(write(push=push, source=str(source))), dry_run=False)
    assert hub.requests == []


def test_every_option_reaches_the_push(hub: Hub, tmp_path: Path) -> None:
    out = write_output(tmp_path / "out", verdict="skipped", card=CARD.replace("mit", "by-nd"))
    options = {"private": False, "unverified": True, "i_have_permission": True, "create_pr": True}
    document = pushed(Recipe("gpt2", str(out), (), {}, {"to": "user/model", **options}), {}, None)
    made = hub.repositories["user/model"]
    assert document["verdict"] == "skipped" and not made.private
    card = made.files("refs/pr/1")["README.md"].decode()
    assert "Uploaded without a passing verification" in card


def test_of_several_processes_the_first_one_pushes(
    hub: Hub, write: Any, surgery: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    document = normsurgery.run(write(push="user/model")).to_dict()
    assert "push" not in document and hub.repositories == {}


def test_a_source_on_the_hub_without_a_card_is_no_obstacle(
    hub: Hub, write: Any, surgery: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    hub.make("them/plain", {"config.json": b"{}"})
    normsurgery.run(write(push="user/model", source="them/plain"))
    assert len(surgery.calls) == 1


def test_the_command_that_pushes_again_has_every_option() -> None:
    push = {"to": "a/b", "private": False, "create_pr": True, "unverified": True}
    assert push_line("o ut", push) == (
        "normsurgery push 'o ut' a/b --public --create-pr --unverified"
    )
    push = {"to": "b", "revision": "v2", "i_have_permission": True}
    assert push_line("out", push) == "normsurgery push out b --revision v2 --i-have-permission"
