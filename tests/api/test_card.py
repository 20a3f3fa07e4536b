"""`card`: a result's README.md made again, in place, and what can go wrong."""

import json
from shutil import copytree

import pytest

import normsurgery
from normsurgery import CheckpointError, UsageError
from normsurgery.cli import main
from normsurgery.report.template import shipped_template


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    source = tmp_path_factory.mktemp("card") / "source"
    copytree(trained, source)
    text = "---\r\nlicense: mit\r\n---\r\n# Theirs\r\n"
    (source / "README.md").write_bytes(text.encode() + b"\xff\n")
    (source / "LICENSE").write_text("As you like.\n")
    out = source.parent / "out"
    normsurgery.convert(source, out, verify=False)
    return out


@pytest.fixture
def output(made, tmp_path):
    return copytree(made, tmp_path / "out")


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_same_template_gives_the_same_bytes(output):
    before = files(output)
    result = normsurgery.card(output)
    assert files(output) == before and not result.to_dict()["changed"]
    assert result.text.encode("utf-8", "surrogateescape") == before["README.md"]
    assert before["LICENSE"] == b"As you like.\n" and before["README.md"].endswith(
        b"# Theirs\n\xff\n"
    )


def test_a_template_of_a_person_s_and_back_again(output, tmp_path):
    before = files(output)
    template = tmp_path / "mine.md"
    template.write_bytes(b"# Mine: {{ heading }}\r\n{{ document.seed }}")
    document = normsurgery.card(output, template=template).to_dict()
    text = (output / "README.md").read_bytes()
    assert document["changed"] and document["bytes"] == len(text)
    assert b"# Mine: GPT2LMHeadModel with RMSNorm\n0\n" in text and text.endswith(
        b"# Theirs\n\xff\n"
    )
    assert (
        b"\r" not in text and not normsurgery.card(output, template=template).to_dict()["changed"]
    )
    assert normsurgery.card(output).to_dict()["changed"]
    assert files(output) == before


def test_a_dry_run_prints_the_card_and_writes_nothing(output, tmp_path, capsys):
    template = tmp_path / "mine.md"
    template.write_text("# {{ command }}!")
    before = files(output)
    assert main(["card", str(output), "--template", str(template), "--dry-run"]) == 0
    assert "\n# convert!\n" in capsys.readouterr().out
    assert files(output) == before
    assert main(["card", str(output), "-n", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dry_run"]


def test_the_shipped_template_is_printed_without_an_output(capsys):
    assert main(["card", "--print-template"]) == 0
    assert capsys.readouterr().out == shipped_template()


def test_the_file_is_replaced_in_one_step(output, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    before = files(output)
    monkeypatch.setattr("os.fsync", full)
    (output / "README.md").write_text("# Mine\n")
    with pytest.raises(normsurgery.ResourceError, match="No space left"):
        normsurgery.card(output)
    assert files(output) == {**before, "README.md": b"# Mine\n"}


def test_a_card_that_was_lost_is_made_anew(output):
    (output / "README.md").unlink()
    assert "# GPT2LMHeadModel with RMSNorm" in normsurgery.card(output).text


def test_an_output_of_before_has_its_notes(output):
    papers = json.loads((output / "surgery.json").read_text())
    (note,) = papers["card"]["not_guaranteed"]
    del papers["card"]
    (output / "surgery.json").write_text(json.dumps(papers))
    assert note in normsurgery.card(output).text


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"receipts": None}, CheckpointError, "lacks what the card tells of"),
        ({"files": {}}, CheckpointError, "does not list"),
    ],
)
def test_papers_that_say_too_little(output, change, error, words):
    papers = json.loads((output / "surgery.json").read_text())
    (output / "surgery.json").write_text(json.dumps({**papers, **change}))
    with pytest.raises(error, match=words):
        normsurgery.card(output)


def test_what_cannot_be_rendered_changes_nothing(output, tmp_path):
    before = files(output)
    for name, data, words in [
        ("a.md", b"\n{{ heding }}", "a.md, line 2"),
        ("b.md", b"\xff", "not a text in UTF-8"),
        ("c.md", None, "not a file"),
    ]:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=words):
            normsurgery.card(output, template=tmp_path / name)
    with pytest.raises(UsageError, match="not a directory"):
        normsurgery.card(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not an output of normsurgery"):
        normsurgery.card(tmp_path)
    assert files(output) == before


def test_push_takes_a_card_that_was_made_again(output, tmp_path):
    from normsurgery.api.push import _card
    from normsurgery.hub.outputs import read_output

    template = tmp_path / "mine.md"
    template.write_text("# Mine\n\n```python\n{{ loading[0].code }}\n{{ loading[1].code }}\n```\n")
    normsurgery.card(output, template=template)
    document = normsurgery.push(output, "me/mine", dry_run=True, unverified=True).to_dict()
    assert document["left"] == [] and "README.md" in {one["name"] for one in document["files"]}
    sent = _card(read_output(output), None, "me/mine").decode("utf-8", "surrogateescape")
    assert sent.count("from_pretrained('me/mine'") == 4 and "path/to" not in sent
