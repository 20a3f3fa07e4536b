"""`normsurgery fold-bn` from arguments to an exit code."""

import json

from normsurgery.cli import main
from tests.batchnorm_families import build_batch_norms
from tests.families import build


def test_a_folded_checkpoint_and_its_document(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    build_batch_norms("conformer", source)
    assert main(["fold-bn", str(source), "-o", str(out), "--device", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "fold-bn" and document["verification"]["verdict"] == "pass"
    assert document["batch_norms"]["folded"] == 1
    assert (out / "surgery.json").exists() and (out / "model.safetensors").exists()


def test_a_model_without_batch_norm_is_exit_code_4(tmp_path, capsys):
    build("vit", tmp_path / "vit")
    code = main(["fold-bn", str(tmp_path / "vit"), "-o", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert code == 4 and "it has no BatchNorm" in said.err
    assert not (tmp_path / "out").exists()
