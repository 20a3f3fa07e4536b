"""`--part`: one tower of a model whose other towers do not convert."""

from __future__ import annotations

import pytest
import torch

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.twin import randomize
from normsurgery.api.operation import Request
from normsurgery.api.rmsnorm import plan_operation
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError

TOWER = "vision_model"


@pytest.fixture(scope="module")
def altclip(tmp_path_factory):
    """A CLIP whose text tower is a post-LN RoBERTa."""
    from transformers import AltCLIPConfig, AltCLIPModel

    text = {
        "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99,
        "intermediate_size": 100, "project_dim": 32, "max_position_embeddings": 40,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 32,
        "intermediate_size": 100, "patch_size": 8,
    }  # fmt: skip
    directory = tmp_path_factory.mktemp("altclip") / "source"
    with quiet():
        config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
        model = AltCLIPModel(config).eval()
        randomize(model, seed=0)
        model.save_pretrained(directory)
    return directory


def test_the_whole_is_refused_and_the_part_named(altclip):
    with pytest.raises(UnsupportedModelError, match="post-LN") as refusal:
        plan_operation(open_checkpoint(altclip), Request())
    assert refusal.value.hint == f"--part {TOWER} converts that part"
    rows = {row["name"]: row for row in normsurgery.inspect(altclip).to_dict()["surgeries"]}
    assert not rows["convert --to rmsnorm"]["applies"]
    assert rows[f"convert --to rmsnorm --part {TOWER}"]["applies"]


def test_the_part_is_converted_and_the_rest_untouched(altclip, tmp_path):
    output = tmp_path / "out"
    document = normsurgery.convert(altclip, output, part=TOWER).to_dict()
    assert document["verification"]["verdict"] == "pass"
    before, after = open_checkpoint(altclip), open_checkpoint(output)
    changed = {n for n in before if not torch.equal(before[n].load(), after[n].load())}
    assert changed
    assert all(name.startswith(TOWER) for name in changed)


def test_the_graft_replaces_the_part_s_norms_only(altclip, tmp_path):
    operation = plan_operation(open_checkpoint(altclip), Request(part=TOWER))
    assert max(operation.prove().errors.values()) <= 1e-12
    assert operation.graft is not None
    assert "vision_model" in operation.graft.text
    assert "roberta" not in operation.graft.text


@pytest.mark.parametrize("part", ["vision", "text_projection", "no.such.module"])
def test_a_module_without_a_stream_is_a_usage_error(altclip, part):
    with pytest.raises(UsageError, match="no residual stream") as error:
        plan_operation(open_checkpoint(altclip), Request(part=part))
    assert TOWER in str(error.value.hint)


def test_a_part_that_does_not_convert_is_refused(altclip):
    with pytest.raises(UnsupportedModelError, match="post-LN"):
        plan_operation(open_checkpoint(altclip), Request(part="text_model"))
