"""`report`: the page of a result, files held against their hashes, samples of both models."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import normsurgery
from normsurgery.cli import main
from tests.report import documents
from tests.report.page.pages import Read

FILES = {"model.safetensors": b"weights", "config.json": b"{}", "assets/picture.png": b"png"}


def sha(data):
    return hashlib.sha256(data).hexdigest()


def written(where, document, **changes):
    """A directory as a surgery of this document would have left it; its weights are no weights."""
    hashes = {name: sha(data) for name, data in FILES.items()}
    for name, data in FILES.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(data)
    files = {"source": {"model.safetensors": "cd" * 32}, "result": hashes}
    papers = {**document, "files": files, **changes}
    (where / "surgery.json").write_text(json.dumps(papers))
    (where / "README.md").write_text("A card.\n")
    return where


@pytest.fixture
def out(tmp_path):
    """Of a surgery whose document has nothing to draw."""
    return written(tmp_path / "out", documents.convert_document())


@pytest.fixture
def pruned(tmp_path):
    """With scores, losses and samples."""
    return written(tmp_path / "out", documents.prune_document())


def as_result(source, where):
    """A directory as an exact surgery would have left it: the source's files, and papers."""
    shutil.copytree(source, where)
    (where / "README.md").write_text("A card.\n")
    hashes = {p.name: sha(p.read_bytes()) for p in source.iterdir() if p.suffix != ".md"}
    weights = {name: hashes[name] for name in hashes if name.endswith(".safetensors")}
    papers = {**documents.convert_document(), "files": {"source": weights, "result": hashes}}
    papers["source"]["revision"] = None
    (where / "surgery.json").write_text(json.dumps(papers))
    return where


@pytest.fixture(scope="module")
def same(trained, tmp_path_factory):
    """A result that loads, of a source that is at hand."""
    return as_result(trained, tmp_path_factory.mktemp("same") / "gpt2-rms")


def tree(directory):
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def text_of(result):
    return Read(page_of(result)).text


def page_of(result):
    return Path(result.to_dict()["output"]).read_text(encoding="utf-8")


def test_the_page_lies_beside_the_result_which_stays_as_it_was(pruned, monkeypatch):
    monkeypatch.setitem(sys.modules, "normsurgery.api.reporting.sampling", None)  # no model opens
    before = tree(pruned)
    result = normsurgery.report(pruned)
    document = result.to_dict()
    assert tree(pruned) == before
    assert document["output"] == str(pruned.with_name("out.report.html"))
    assert sorted(p.name for p in pruned.parent.iterdir()) == ["out", "out.report.html"]
    assert result.unchanged and {one["now"] for one in document["files"]} == {"matches"}
    assert document["samples"] == len(documents.prune_document()["samples"])
    assert "Files as recorded 3 of 3" in text_of(result)


def test_the_pictures_of_the_document_are_drawn_and_without_matplotlib_the_page_says_how(
    pruned, monkeypatch
):
    first = normsurgery.report(pruned)
    assert "block-scores" in first.to_dict()["pictures"]
    assert "<figure" in page_of(first)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = normsurgery.report(pruned, overwrite=True)
    assert result.to_dict()["pictures"] == []
    assert "pip install 'normsurgery[plots]'" in text_of(result)


def test_a_changed_and_a_missing_file_are_named_and_the_command_ends_with_3(out, capsys):
    (out / "config.json").write_bytes(b"{ }")
    (out / "assets" / "picture.png").unlink()
    (out / "more.txt").write_text("mine")
    assert main(["report", str(out)]) == 3
    assert "changed files" in capsys.readouterr().out
    result = normsurgery.report(out, overwrite=True)
    states = {one["name"]: one["now"] for one in result.to_dict()["files"]}
    assert not result.unchanged and states == {
        "model.safetensors": "matches", "config.json": "changed", "assets/picture.png": "missing",
    }  # fmt: skip
    text = text_of(result)
    assert "no longer there. config.json (changed), assets/picture.png (missing)." in text
    assert "Beside them, and not of this result: more.txt" in text


def test_papers_that_an_output_was_made_from_are_not_taken_for_its_own(tmp_path):
    """A result of a result brings the first one's papers along, which are then written anew."""
    out = written(tmp_path / "out", documents.convert_document())
    papers = json.loads((out / "surgery.json").read_text())
    papers["files"]["result"] |= {"surgery.json": "ab" * 32, "README.md": "ab" * 32}
    (out / "surgery.json").write_text(json.dumps(papers))
    assert normsurgery.report(out).unchanged


def test_a_page_is_replaced_only_when_asked(out):
    normsurgery.report(out)
    with pytest.raises(normsurgery.UsageError, match="exists") as caught:
        normsurgery.report(out)
    assert "--overwrite" in caught.value.hint
    normsurgery.report(out, overwrite=True)


def test_the_directory_we_stand_in_has_a_page_beside_it(out, monkeypatch):
    monkeypatch.chdir(out)
    assert normsurgery.report(".").to_dict()["output"] == str(out.with_name("out.report.html"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "out/page.html"}, "inside the result"),
        ({"output": "."}, "cannot be written"),
        ({"output": "no/page.html"}, "cannot be written"),
        ({"samples": 0}, "from 1"),
        ({"source": None, "samples": 1}, "was a directory"),
    ],
)
def test_bad_requests_write_nothing(out, monkeypatch, options, words):
    monkeypatch.chdir(out.parent)
    papers = json.loads((out / "surgery.json").read_text())
    papers["source"]["revision"] = None
    (out / "surgery.json").write_text(json.dumps(papers))
    with pytest.raises(normsurgery.UsageError, match=words):
        normsurgery.report("out", **options)
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_what_is_no_output_of_ours_is_refused(tmp_path, trained):
    with pytest.raises(normsurgery.UsageError, match="not a directory"):
        normsurgery.report(tmp_path / "nothing")
    with pytest.raises(normsurgery.CheckpointError, match="not an output of"):
        normsurgery.report(trained, output=tmp_path / "page.html")


@pytest.mark.parametrize("lost", ["receipts", "verification", "source", "target"])
def test_a_damaged_document_is_one_error_and_no_page(tmp_path, lost):
    out = written(tmp_path / "out", documents.convert_document(), **{lost: "damaged"})
    with pytest.raises(normsurgery.CheckpointError, match="not of a shape"):
        normsurgery.report(out)
    assert not out.with_name("out.report.html").exists()


def test_both_models_go_on_from_the_same_text(same, trained, tmp_path):
    page = tmp_path / "page.html"
    result = normsurgery.report(
        same, output=page, source=str(trained), samples=2, prompts=["It was the best of"]
    )
    document = result.to_dict()
    assert document["samples"] == 3
    assert {one["now"] for one in document["source_files"]} == {"matches"}
    text = text_of(result)
    assert "3 of 3 continuations of original and result are the same" in text
    assert "prompt It was the best of original" in text
    assert "<mark>" not in page.read_text(encoding="utf-8")


def test_without_samples_the_page_says_how_to_get_them(same, tmp_path):
    result = normsurgery.report(same, output=tmp_path / "page.html")
    assert result.to_dict()["samples"] == 0
    assert "--samples 3 --source MODEL" in text_of(result)


def test_a_graft_is_sampled_only_with_trust(trained, tmp_path):
    out = as_result(trained, tmp_path / "out")
    papers = json.loads((out / "surgery.json").read_text())
    papers["target"]["form"] = "graft"
    (out / "surgery.json").write_text(json.dumps(papers))
    with pytest.raises(normsurgery.UsageError, match="modeling file") as caught:
        normsurgery.report(out, source=str(trained), samples=1)
    assert "--trust-remote-code" in caught.value.hint


def test_another_model_is_not_taken_for_the_source(same, trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(normsurgery.UsageError, match="not the model that this result was made"):
        normsurgery.report(same, source=str(other), output=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("prompt", "words"), [("", "no token"), ("of the " * 400, "tokens, the model reads")]
)
def test_a_prompt_that_cannot_be_read_is_refused(same, trained, tmp_path, prompt, words):
    with pytest.raises(normsurgery.UsageError, match=words):
        normsurgery.report(
            same, source=str(trained), prompts=[prompt], output=tmp_path / "page.html"
        )


def test_a_classifier_writes_no_text_but_has_classes(tiny, tmp_path):
    source = tiny("vit")
    out = as_result(source, tmp_path / "out")
    mute = normsurgery.report(out, source=str(source), samples=1)
    assert "ViTForImageClassification writes no text" in text_of(mute)
    size = json.loads((source / "config.json").read_text())["image_size"]
    pixels = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    np.savez(tmp_path / "images.npz", pixel_values=pixels)
    seen = normsurgery.report(
        out, source=str(source), data=str(tmp_path / "images.npz"), overwrite=True
    )
    assert seen.to_dict()["samples"] == 2
    cells = page_of(seen).split('aria-label="Top classes"')[1].split("</table>")[0]
    assert cells.count("LABEL_") == 8  # of two pictures by two models: there are two classes
