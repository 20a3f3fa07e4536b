from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from normsurgery.anatomy.block_writers import block_writers
from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError, VerificationError
from tests.families import FAMILIES, build_spec
from tests.surgery.zoo import ZOO, Spec

ALBERT: Spec = (
    "AlbertForMaskedLM", "AlbertConfig", {**FAMILIES["llama"][2], "embedding_size": 24},
)  # fmt: skip


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Spec], Examination]:
    def make(spec: Spec) -> Examination:
        directory: Path = tmp_path_factory.mktemp("stack") / "model"
        build_spec(spec, directory)
        return examine(open_checkpoint(directory))

    return make


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gpt2", {"transformer.h": (6, 48, (("n_layer",),))}),
        ("gemma2", {"model.layers": (6, 32, (("num_hidden_layers",),))}),
        ("vit", {"vit.layers": (6, 48, (("num_hidden_layers",),))}),
        ("bert", {"bert.encoder.layer": (6, 48, (("num_hidden_layers",),))}),
        (
            "whisper",
            {
                "model.encoder.layers": (4, 32, (("encoder_layers",),)),
                "model.decoder.layers": (5, 32, (("decoder_layers",),)),
            },
        ),
        (
            "t5",
            {
                "encoder.block": (4, 32, (("num_layers",),)),
                "decoder.block": (5, 32, (("num_decoder_layers",),)),
            },
        ),
        (
            "swin",
            {
                "swin.encoder.layers.0.blocks": (2, 24, (("depths", 0),)),
                "swin.encoder.layers.1.blocks": (4, 48, (("depths", 1),)),
            },
        ),
        (
            "qwen2_vl",
            {
                "model.visual.blocks": (4, 32, (("vision_config", "depth"),)),
                "model.language_model.layers": (6, 32, (("text_config", "num_hidden_layers"),)),
            },
        ),
    ],
)
def test_stacks_have_names_widths_and_keys(examined, family, expected):
    found = read_stacks(examined(ZOO[family]))
    assert {s.name: (s.depth, s.width, s.keys) for s in found} == expected
    assert not any(stack.why_not for stack in found)


def test_the_usual_stack_is_the_one_that_the_language_head_reads(examined):
    stacks = read_stacks(examined(ZOO["whisper"]))
    assert choose_stack(stacks).name == "model.decoder.layers"
    assert choose_stack(stacks, "encoder").name == "model.encoder.layers"
    with pytest.raises(UsageError, match=r"model\.encoder\.layers, model\.decoder\.layers"):
        choose_stack(stacks, "layers")
    with pytest.raises(UsageError, match="fits 0 stacks"):
        choose_stack(stacks, "vision")


def test_two_towers_without_a_language_head_must_be_named(examined):
    stacks = read_stacks(examined(FAMILIES["clip"]))
    with pytest.raises(UsageError, match=r"several stacks.*text_model"):
        choose_stack(stacks)
    assert choose_stack(stacks, "vision").name == "vision_model.encoder.layers"


def test_a_block_that_runs_several_times_is_refused(examined):
    with pytest.raises(UnsupportedModelError, match="more than once"):
        choose_stack(read_stacks(examined(ALBERT)))


@pytest.mark.parametrize(
    ("family", "block", "expected"),
    [
        ("gpt2", 0, "attn.c_proj.weight T, mlp.c_proj.weight T"),
        ("llama", 5, "self_attn.o_proj.weight, mlp.down_proj.weight"),
        ("falcon_parallel", 1, "self_attention.dense.weight, mlp.dense_4h_to_h.weight"),
        ("gpt_oss", 0, "self_attn.o_proj.weight, mlp.experts.down_proj T E"),
        ("qwen3_moe", 1, "self_attn.o_proj.weight, mlp.down_proj.weight"),
        ("qwen3_moe", 2, "self_attn.o_proj.weight, mlp.experts.down_proj E"),
    ],
)
def test_writers_in_order_of_addition(examined, family, block, expected):
    examination = examined(ZOO[family])
    writers = block_writers(examination, choose_stack(read_stacks(examination)))[block]
    shown = (w.weight + " T" * w.transposed + " E" * w.experts for w in writers)
    assert ", ".join(shown) == expected


def test_norms_factors_biases_and_shared_experts_are_seen(examined):
    def last(family):
        examination = examined(ZOO[family])
        return block_writers(examination, choose_stack(read_stacks(examination)))[-1][-1]

    gemma = last("gemma2")
    assert gemma.norm == "post_feedforward_layernorm"
    assert gemma.silence == {"post_feedforward_layernorm.weight": -1.0}  # the class adds 1
    assert last("olmo2").silence == {"post_feedforward_layernorm.weight": 0.0}
    assert last("granite").factor == pytest.approx(0.3)
    assert last("gpt_oss").bias == "mlp.experts.down_proj_bias"
    shared = last("deepseek_v3").siblings
    assert [writer.weight for writer in shared] == ["mlp.shared_experts.down_proj.weight"]


def test_a_block_that_normalizes_its_stream_has_no_writers(examined):
    examination = examined(ZOO["bert"])
    stack = choose_stack(read_stacks(examination))
    with pytest.raises(UnsupportedModelError, match="post-LN"):
        block_writers(examination, stack)


def test_the_witness_notices_a_writer_that_was_missed(examined, monkeypatch):
    from normsurgery.anatomy import block_writers as module

    examination = examined(ZOO["llama"])
    stack = choose_stack(read_stacks(examination))
    monkeypatch.setattr(module, "silence_of", lambda writers: dict(writers[0].silence))
    with pytest.raises(VerificationError, match=r"model\.layers\.0 changes the stream"):
        block_writers(examination, stack)
