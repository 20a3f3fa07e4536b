"""The end of a report says what to do next, in lines that can be copied."""

import shlex

import pytest

import normsurgery
from normsurgery.cli import main
from normsurgery.report.next_steps import Asked, next_lines
from tests.cli.invoke import Fake
from tests.report import documents

ASKED = Asked("./my model")


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parses(line):
    """Whether the command line knows all that a line says."""
    words = shlex.split(line, comments=True)
    return words[0] == "normsurgery" and main([*words[1:], "--help"]) == 0


def surgery(name, applies=True, contract="exact"):
    return {"name": name, "applies": applies, "contract": contract, "target": "stock", "reason": ""}


def inspected(*rows):
    return next_lines({"command": "inspect", "surgeries": list(rows)}, ASKED)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([surgery("convert --to crmsnorm")], "-o 'my model-crmsnorm' --to crmsnorm"),
        (
            [surgery("convert --to rmsnorm", False), surgery("fold --what norm,rotate")],
            "-o 'my model-rotated' --what norm,rotate",
        ),
        (
            [surgery("prune --drop LIST", contract="lossy"), surgery("fold-bn")],
            "fold-bn './my model' -o 'my model-nobn'",
        ),
        ([surgery("prune --drop N", contract="lossy")], "-o 'my model-pruned' --drop 25%"),
        (
            [surgery("prune --heal sequential", contract="fitted")],
            "-o 'my model-pruned' --drop 25% --heal sequential",
        ),
        ([surgery("arrange, only zero blocks added"), surgery("remove-ln")], "'my model-noln'"),
    ],
)
def test_after_inspect_comes_the_first_surgery_exact_before_others(capsys, rows, wanted):
    line, remark = inspected(*rows)
    assert line.endswith(wanted) and parses(line) and remark.startswith("# ")


@pytest.mark.parametrize("rows", [[], [surgery("convert", False)], [surgery("heal")]])
def test_after_inspect_there_is_nothing_where_nothing_applies_as_it_is(rows):
    assert inspected(*rows) == []


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (documents.convert_document, "verify './my model' out --data held-out.txt"),
        (documents.fold_document, "verify './my model' out --data held-out.txt"),
        (documents.heal_document, "out --contract trained --data held-out.txt"),
        (documents.remove_ln_document, "out --contract trained --data held-out.txt"),
    ],
)
def test_after_a_surgery_comes_a_verification_on_text_of_one_s_own(capsys, make, wanted):
    line, *page = next_lines(make(), ASKED)
    assert [one.partition("  #")[0] for one in page] in ([], ["normsurgery report out"])
    assert line.endswith(wanted) and parses(line)


def test_what_was_cut_is_healed_next(capsys):
    verify, heal, page = next_lines(documents.prune_document(), ASKED)
    assert "--contract fitted" in verify
    assert heal == "normsurgery heal out -o out-healed --teacher './my model'"
    assert page.startswith("normsurgery report out  # ")
    assert parses(verify) and parses(heal) and parses(page)


def test_pictures_are_not_called_text():
    document = documents.convert_document()
    for form in ("stock", "graft"):
        document["verification"][form]["unit"] = "samples"
    assert next_lines(document, ASKED)[0].endswith("--data PATH")
    document["verification"] = {"verdict": "skipped", "contract": "exact"}
    document["target"]["auto_class"] = "AutoModelForImageClassification"
    assert next_lines(document, ASKED)[0].endswith("--data PATH")


def test_what_the_model_needed_to_open_is_needed_again(capsys):
    asked = Asked("x", trust_remote_code=True, allow_pickle=True)
    (line,) = next_lines(documents.convert_document(), asked)
    assert line.endswith("--trust-remote-code --allow-pickle") and parses(line)


def test_a_dry_run_says_how_to_write_and_a_preview_leaves_it_to_its_error():
    assert next_lines(documents.plan_document(), ASKED) == [
        "# the same command without --dry-run writes it"
    ]
    assert next_lines(documents.remove_ln_preview_document(), ASKED) == []


def test_a_remark_hides_no_option():
    asked = Asked("a", "b", trust_remote_code=True)
    for document in (documents.verify_document(), documents.verify_document("fail", 9.0)):
        (line,) = next_lines(document, asked)
        assert shlex.split(line, comments=True)[-1] == "--trust-remote-code"


def test_after_verify(capsys):
    asked = Asked("a", "b")
    (line,) = next_lines(documents.verify_document(), asked)
    assert line.startswith("normsurgery inspect b") and parses(line)
    (line,) = next_lines(documents.verify_document("fail", 9.0), asked)
    assert line.startswith("normsurgery verify a b --against-float64") and parses(line)
    document = documents.verify_document("fail")
    document["verification"]["contract"] = "lossy"
    assert next_lines(document, asked) == []


def test_it_is_the_end_of_the_report_whole_however_narrow_and_no_part_of_json(monkeypatch, capsys):
    monkeypatch.setattr(normsurgery, "convert", Fake(documents.convert_document()))
    monkeypatch.setenv("COLUMNS", "40")
    model = "a-rather-long-directory/" * 4
    assert main(["convert", model, "-o", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["Next", f"  normsurgery verify {model} out --data held-out.txt"]
    assert main(["convert", model, "-o", "out", "--json"]) == 0
    assert "held-out" not in capsys.readouterr().out
