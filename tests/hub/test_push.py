"""The real Hub client pushes to a server of ours on the loopback interface."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from normsurgery import CheckpointError, HubError, UsageError, push
from normsurgery.hub import send as sending
from normsurgery.report.progress import Silent, Unit
from tests.hub.conftest import FILES, WEIGHTS, files_of, write_output
from tests.hub.server import Hub, answer, refused

# huggingface_hub hands httpx a file in a way that httpx means to give up
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PUSHED = {*FILES, "README.md", "surgery.json"}


def test_a_first_push_makes_a_private_repository_with_just_the_output(
    hub: Hub, output: Path
) -> None:
    document = push(output, "user/model").to_dict()
    made = hub.repositories["user/model"]
    assert made.private
    assert {k: v for k, v in made.files().items() if k != ".gitattributes"} == files_of(output)
    assert document["repository"] == "user/model"
    assert document["commit"] == made.refs["main"]
    assert document["url"] == f"{hub.url}/user/model"
    assert (document["private"], document["created"], document["pull_request"]) == (
        True, True, None,
    )  # fmt: skip
    assert {one["name"]: one["bytes"] for one in document["files"]} == {
        name: len(data) for name, data in files_of(output).items()
    }
    assert document["bytes"] == sum(map(len, files_of(output).values()))
    assert made.messages[-1] == "Upload the result of normsurgery convert"
    assert len(hub.uploads) == 1  # the weights; the rest travels in the commit


def test_public_name_only_message_and_a_branch_that_is_made(hub: Hub, output: Path) -> None:
    document = push(output, "model", private=False, revision="v2", message="Second").to_dict()
    made = hub.repositories["user/model"]
    assert not made.private
    assert made.messages[-1] == "Second"
    assert set(made.files("v2")) == {*PUSHED, ".gitattributes"}
    assert set(made.files("main")) == {".gitattributes"}
    assert document["url"] == f"{hub.url}/user/model/tree/v2"
    assert (document["repository"], document["revision"]) == ("user/model", "v2")


def test_a_pull_request_leaves_main_alone(hub: Hub, output: Path) -> None:
    hub.make("other/model", private=False)
    document = push(output, "other/model", private=False, create_pr=True).to_dict()
    there = hub.repositories["other/model"]
    assert set(there.files("main")) == {".gitattributes"}
    assert set(there.files("refs/pr/1")) == {*PUSHED, ".gitattributes"}
    assert document["pull_request"] == document["url"] == f"{hub.url}/other/model/discussions/1"
    assert document["revision"] == "refs/pr/1"
    assert hub.asked("POST /api/repos/create") == 0
    more = push(output, "other/model", private=False, revision="refs/pr/1").to_dict()
    assert more["unchanged"] and hub.asked("POST /api/models/other/model/branch") == 0


def test_a_second_push_sends_nothing_and_says_so(hub: Hub, output: Path) -> None:
    first = push(output, "user/model").to_dict()
    hub.uploads.clear()
    second = push(output, "user/model").to_dict()
    assert hub.uploads == []
    assert (second["unchanged"], second["created"]) == (True, False)
    assert second["commit"] == first["commit"]


def test_a_push_that_broke_goes_on_with_what_has_not_arrived(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_LARGE", 5000)  # so that the weights travel last
    output = write_output(tmp_path / "out", more={"sound.wav": b"RIFF" * 100})
    weights = hashlib.sha256(WEIGHTS).hexdigest()
    hub.faults[f"PUT /store/{weights}"] = [refused(400, "cut")]
    with pytest.raises(HubError, match="answered 400"):
        push(output, "user/model")
    assert set(hub.repositories["user/model"].files()) == {".gitattributes"}
    assert len(hub.uploads) == 1
    push(output, "user/model")
    assert hub.uploads[1:] == [weights]
    assert hub.repositories["user/model"].files()["model.safetensors"] == WEIGHTS


def test_progress_counts_every_byte_twice_once_read_and_once_sent(
    hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_LARGE", 5000)
    seen: dict[str, list[int | None]] = {}

    class Counting(Silent):
        def task(self, description: str, total: int | None, unit: Unit) -> Any:
            seen[description] = [total]
            return nullcontext(lambda n, note="": seen[description].append(n))

    push(output, "user/model", progress=Counting())
    sizes = {name: len(data) for name, data in files_of(output).items()}
    sent = seen["upload"]
    assert sent[0] == sum(sizes.values()) == sum(n or 0 for n in sent[1:])
    assert seen["check"][0] == sum(len(data) for data in FILES.values())
    assert sum(n or 0 for n in seen["check"][1:]) == seen["check"][0]


def test_large_files_go_in_parts(hub: Hub, output: Path) -> None:
    hub.multipart_over = 4000
    push(output, "user/model")
    assert len(hub.uploads) == 3
    assert hub.repositories["user/model"].files()["model.safetensors"] == WEIGHTS


def test_weights_of_an_earlier_upload_do_not_stay_beside_ours(hub: Hub, output: Path) -> None:
    old = {"model-00001-of-00001.safetensors": b"x", "model.safetensors.index.json": b"{}"}
    hub.make("user/model", {**old, "model.gguf": b"g", "notes.txt": b"n"})
    document = push(output, "user/model").to_dict()
    assert set(hub.repositories["user/model"].files()) == {
        *PUSHED, ".gitattributes", "model.gguf", "notes.txt",
    }  # fmt: skip
    assert document["removed"] == sorted(old)


STRAY = {
    ".env": "hidden",
    "secret.txt": "not of the output",
    "config.json~": "an editor's backup",
    "sub/.note.swp": "hidden",
    "optimizer.pt": "the state of a training run",
    "model.safetensors.tmp": "temporary",
}


def test_stray_files_stay_and_are_named_even_where_the_source_had_them(
    hub: Hub, tmp_path: Path
) -> None:
    carried = {"training_args.bin": b"source's own", ".hidden": b"too"}
    out = write_output(tmp_path / "out", more=carried)
    (out / "sub").mkdir()
    (out / ".cache" / "deep").mkdir(parents=True)
    (out / ".cache" / "deep" / "file").write_bytes(b"cache")
    (out / "elsewhere").symlink_to(tmp_path)
    for name in STRAY:
        (out / name).write_bytes(b"private")
    document = push(out, "user/model").to_dict()
    assert set(hub.repositories["user/model"].files()) == {*PUSHED, ".gitattributes"}
    assert {one["name"]: one["why"] for one in document["left"]} == {
        **STRAY, ".cache/": "hidden", "elsewhere/": "a link",
        "training_args.bin": "the state of a training run", ".hidden": "hidden",
    }  # fmt: skip


def test_a_dry_run_asks_nobody(output: Path) -> None:
    document = push(output, "user/model", dry_run=True).to_dict()  # HF_HUB_OFFLINE is set
    assert {one["name"] for one in document["files"]} == PUSHED
    assert (document["repository"], document["commit"], document["dry_run"]) == (
        "user/model", None, True,
    )  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_is_refused_before_anything_is_sent(
    hub: Hub, output: Path, name: str
) -> None:
    (output / name).write_bytes((output / name).read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="changed since it was written"):
        push(output, "user/model")
    assert hub.requests == []


def test_a_file_that_changes_while_it_is_sent_is_not_committed(
    hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = sending._upload

    def meddling(*given: object) -> None:
        (output / "model.safetensors").write_bytes(bytes(len(WEIGHTS)))
        upload(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sending, "_upload", meddling)
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed"):
        push(output, "user/model")
    assert set(hub.repositories["user/model"].files()) == {".gitattributes"}


@pytest.mark.parametrize("verdict", ["skipped", "fail", None])
def test_what_is_not_verified_goes_only_when_told_and_the_card_says_so(
    hub: Hub, tmp_path: Path, verdict: str | None
) -> None:
    out = write_output(tmp_path / "out", verdict)
    with pytest.raises(CheckpointError) as refusal:
        push(out, "user/model")
    assert "--unverified" in refusal.value.hint and hub.requests == []
    before = (out / "README.md").read_text()
    assert push(out, "user/model", unverified=True).to_dict()["verdict"] == (verdict or "absent")
    card = hub.repositories["user/model"].files()["README.md"].decode()
    assert card.startswith("---\nlicense: mit\n") and card.endswith("# A model\n\nSaid in full.\n")
    assert "Uploaded without a passing verification" in card.split("# A model")[0]
    assert (out / "README.md").read_text() == before


LICENCES = {
    "license: cc-by-nd-4.0": True,
    "license: CC-BY-NC-ND-4.0": True,
    "license: [mit, cc-by-nc-nd-3.0]": True,
    "license: other\nlicense_name: Acme-NoDerivatives": True,
    "license: other\nlicense_name: no derivs, please": True,
    "license: other\nlicense_link: https://creativecommons.org/licenses/by-nd/4.0/": True,
    "license: cc-by-nc-sa-4.0": False,
    "license: other\nlicense_name: and-then-some": False,
    "license: apache-2.0": False,
    "tags: [x]": False,
}


@pytest.mark.parametrize("front", LICENCES)
def test_a_licence_against_derivatives_is_kept_to(tmp_path: Path, front: str) -> None:
    out = write_output(tmp_path / "out", card=f"---\n{front}\n---\n# A model\n")
    if LICENCES[front]:
        with pytest.raises(UsageError, match="forbids") as refusal:
            push(out, "user/model", dry_run=True)
        assert "--i-have-permission" in refusal.value.hint
        assert push(out, "user/model", dry_run=True, i_have_permission=True)
    else:
        assert push(out, "user/model", dry_run=True)


def test_a_public_repository_takes_no_private_push(hub: Hub, output: Path) -> None:
    hub.make("user/model", private=False)
    with pytest.raises(UsageError, match="is public"):
        push(output, "user/model")
    assert set(hub.repositories["user/model"].files()) == {".gitattributes"}
    assert not push(output, "user/model", private=False).to_dict()["private"]


def test_a_private_repository_stays_private(hub: Hub, output: Path) -> None:
    hub.make("user/model")
    assert push(output, "user/model", private=False).to_dict()["private"]
    assert hub.repositories["user/model"].private


def test_a_gitignore_that_keeps_weights_out_is_no_success(hub: Hub, output: Path) -> None:
    hub.make("user/model", {".gitignore": b"model.safetensors\n"})
    with pytest.raises(HubError, match=r"gitignore of user/model keeps model\.safetensors out"):
        push(output, "user/model")
    assert "config.json" not in hub.repositories["user/model"].files()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"create_pr": True, "revision": "v2"}, "always against main"),
        ({"repository": "a/b/c"}, "not a valid Hub id"),
        ({"repository": "-x"}, "not a valid Hub id"),
        ({"output": "nowhere"}, "not a directory"),
    ],
)
def test_requests_that_cannot_be(output: Path, options: dict[str, object], words: str) -> None:
    given = {"output": output, "repository": "user/model", "dry_run": True, **options}
    with pytest.raises(UsageError, match=words):
        push(**given)  # type: ignore[arg-type]


def test_what_is_no_output_of_ours(tmp_path: Path, output: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(CheckpointError, match="not an output of normsurgery"):
        push(tmp_path / "plain", "user/model", dry_run=True)
    papers = json.loads((output / "surgery.json").read_text())
    for listed in ({"../../secret": "0" * 64}, {"/etc/passwd": "0" * 64}, {"a": "short"}, {}):
        (output / "surgery.json").write_text(json.dumps({**papers, "files": {"result": listed}}))
        with pytest.raises(CheckpointError, match=r"surgery\.json"):
            push(output, "user/model", dry_run=True)


def test_a_link_to_elsewhere_and_a_missing_file_are_refused(tmp_path: Path, output: Path) -> None:
    (output / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        push(output, "user/model", dry_run=True)
    (output / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="link to outside"):
        push(output, "user/model", dry_run=True)


def test_the_card_is_the_person_s_to_edit_but_not_to_lose(hub: Hub, output: Path) -> None:
    (output / "README.md").write_text("# Mine\n")
    push(output, "user/model")
    assert hub.repositories["user/model"].files()["README.md"] == b"# Mine\n"
    (output / "README.md").unlink()
    with pytest.raises(CheckpointError, match=r"README\.md is missing"):
        push(output, "user/model")


def test_a_card_that_the_hub_refuses(hub: Hub, output: Path) -> None:
    errors = {"errors": [{"message": '"license" must be one of'}], "warnings": []}
    hub.faults["POST /api/validate-yaml"] = [answer(400, errors)]
    with pytest.raises(CheckpointError, match='"license" must be one of'):
        push(output, "user/model")


def test_the_card_loads_from_where_it_lies(hub: Hub, tmp_path: Path) -> None:
    code = "# A\n```python\nAutoModel.from_pretrained('path/to/this/checkpoint')\n```\n"
    out = write_output(tmp_path / "out", card=code)
    push(out, "model")
    push(out, "model", revision="v2")
    made = hub.repositories["user/model"]
    assert b"from_pretrained('user/model')" in made.files()["README.md"]
    assert made.files("v2")["README.md"].decode() == code  # there main would be loaded
