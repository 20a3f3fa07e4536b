"""`arrange` from a directory to a verified directory."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import normsurgery
from normsurgery.cli import main
from normsurgery.hub.outputs import check_unchanged, read_output
from normsurgery.report.progress import Silent


@pytest.fixture(scope="module")
def dropped(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("arrange") / "out"
    return out, normsurgery.arrange(trained, out, blocks="0-1,4,3").to_dict()


def test_the_blocks_lie_in_the_order_of_the_list(trained, dropped):
    out, document = dropped
    before, after = (load_file(d / "model.safetensors") for d in (trained, out))
    for new, old in enumerate([0, 1, 4, 3]):
        for name in (n for n in before if f".h.{old}." in n):
            assert torch.equal(after[name.replace(f".h.{old}.", f".h.{new}.")], before[name])
    assert len(after) == len(before) - 2 * 12
    assert document["blocks"]["dropped"] == [2, 5]
    assert json.loads((out / "config.json").read_text())["n_layer"] == 4


def test_the_papers_of_a_result_s_result_speak_of_its_own_files(dropped, tmp_path):
    normsurgery.arrange(dropped[0], tmp_path / "again", blocks="0-2", verify=False)
    check_unchanged(read_output(tmp_path / "again"), Silent())
    papers = json.loads((tmp_path / "again" / "surgery.json").read_text())
    assert "model.safetensors" in papers["files"]["result"]


def test_the_document_says_what_was_promised_and_found(dropped):
    out, document = dropped
    assert document["command"] == "arrange" and document["output"] == str(out)
    assert document["verification"]["verdict"] == "pass"
    assert document["verification"]["contract"] == "lossy"
    assert document["proof"]["errors"]["stock"] <= 1e-9 < document["proof"]["controls"]["stock"]
    (receipt,) = document["receipts"]
    assert receipt["tensors"] == {"kept": 40, "changed": 12, "added": 0, "dropped": 24}
    assert receipt["config"] == {"n_layer": [6, 4]}
    papers = json.loads((out / "surgery.json").read_text())
    assert papers["recipe"]["steps"][0]["blocks"] == "0-1,4,3"
    card = (out / "README.md").read_text()
    assert "blocks 2, 5 of transformer.h are gone" in card and "trust_remote_code" not in card


def test_zero_blocks_pass_as_exact(trained, tmp_path):
    document = normsurgery.arrange(trained, tmp_path / "out", blocks="0-2,zero,3-5").to_dict()
    assert document["receipts"][0]["contract"] == "exact"
    assert document["verification"] | {"stock": None} == {
        "verdict": "pass", "contract": "exact", "stock": None,
    }  # fmt: skip


def test_a_dtype_is_a_step_of_its_own(trained, tmp_path):
    out = tmp_path / "out"
    document = normsurgery.arrange(
        trained, out, blocks="0,1", dtype="bfloat16", verify=False
    ).to_dict()
    assert [receipt["surgery"] for receipt in document["receipts"]] == ["arrange", "cast"]
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert document["verification"] == {"verdict": "skipped", "contract": "lossy"}


@pytest.mark.parametrize("options", [{"blocks": "0-9"}, {"blocks": "0,x"}, {"blocks": ""},
                                     {"blocks": "0", "stack": "encoder"},
                                     {"blocks": "0", "dtype": "int4"}])  # fmt: skip
def test_a_bad_request_is_a_usage_error_and_writes_nothing(trained, tmp_path, options):
    with pytest.raises(normsurgery.UsageError):
        normsurgery.arrange(trained, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_of_two_stacks(tiny, tmp_path):
    document = normsurgery.arrange(
        tiny("whisper"), tmp_path / "out", blocks="2,0", stack="encoder"
    ).to_dict()
    assert document["blocks"]["stack"] == "model.encoder.layers"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["encoder_layers"], written["decoder_layers"]) == (2, 3)


def test_the_command_plans_without_writing(trained, tmp_path, capsys):
    arguments = ("--blocks", "0,1,1", "--dry-run", "--json")
    assert main(["arrange", str(trained), "-o", str(tmp_path / "out"), *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert document["plan"]["contract"] == "lossy"
    assert document["plan"]["config_diff"] == {"n_layer": [6, 3]}
