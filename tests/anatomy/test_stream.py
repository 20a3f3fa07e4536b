"""Streams, writers, norm sites and readers, or the reason why not."""

from __future__ import annotations

import re

import pytest

from normsurgery.anatomy.examine import examine
from normsurgery.checkpoint import open_checkpoint
from tests.families import EXACT, LAYERS

# family → LayerNorms that read a stream, weights that write to one (biases aside)
EXPECTED = {
    "gpt2": (2 * LAYERS + 1, 2 * LAYERS + 2),
    "gpt_neo": (9, 10),
    "gpt_neox": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "gpt_neox_sequential": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "gptj": (LAYERS + 1, 2 * LAYERS + 1),
    "opt": (2 * LAYERS + 1, 2 * LAYERS + 2),
    "bloom": (2 * LAYERS + 1, 2 * LAYERS),
    "falcon_old": (LAYERS + 1, 2 * LAYERS + 1),
    "falcon_new": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "falcon_alibi": (2 * LAYERS + 1, 4 * LAYERS + 1),  # its biases are added by hand
    "phi": (LAYERS + 1, 2 * LAYERS + 1),
    "phi_qk": (LAYERS + 1, 2 * LAYERS + 1),
    "starcoder2": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "stablelm": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "stablelm_parallel": (LAYERS + 1, 2 * LAYERS + 1),
    "mpt": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "olmo": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "cohere": (LAYERS + 1, 2 * LAYERS + 1),
    "nemotron": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "nemotron_biased": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "codegen": (LAYERS + 1, 2 * LAYERS + 1),
    "vit": (2 * LAYERS + 1, 2 * LAYERS + 3),
    "dinov2": (2 * LAYERS + 1, 2 * LAYERS + 3),
    "dinov2_swiglu": (2 * LAYERS + 1, 2 * LAYERS + 3),
    "esm": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "whisper": (5 * LAYERS + 2, 5 * LAYERS + 3),
    "clip": (4 * LAYERS + 2, 4 * LAYERS + 2),
    "mbart": (5 * LAYERS + 2, 5 * LAYERS),  # the embedding norms write, not the tables
    "xglm": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "pegasus_x": (6 * LAYERS + 2, 5 * LAYERS + 2),  # tokens and global tokens, a norm for each
    "modernbert": (2 * LAYERS, 2 * LAYERS),  # the first block has one norm
    "phimoe": (2 * LAYERS + 1, 2 * LAYERS + 1),
    "wav2vec2": (2 * LAYERS + 1, 2 * LAYERS),
    "segformer": (4 * 5, 4 * 4),  # four stages of two blocks
    "swinv2": (2 + 4 * 2, 2 + 4 * 2),  # patches, one merging, two norms in each of four blocks
}

REASONS = {
    "opt_350m": r"final_layer_norm is post-LN: the residual stream is the norm's output",
    "bert": r"LayerNorm is post-LN",
    "roberta": r"LayerNorm is post-LN",
    "bart": r"layer_norm is post-LN",
    "swin": r"downsample reads the stream without a norm \(cat\)",
    "convnext": r"dwconv reads the stream without a norm \(conv2d\)",
    "llama": r"its norms are RMSNorm already",
}


def _anatomy(directory):
    return examine(open_checkpoint(directory)).anatomy


@pytest.mark.parametrize("family", EXACT)
def test_every_stream_site_and_writer_is_found(tiny, family):
    anatomy = _anatomy(tiny(family))
    assert anatomy.why_not() is None
    streams = anatomy.convertible()
    sites = {name for stream in streams for name in stream.sites}
    writers = {writer.weight for stream in streams for writer in stream.writers}
    assert (len(sites), len(writers)) == EXPECTED[family]


@pytest.mark.parametrize("family", REASONS)
def test_a_refusal_names_the_operation_in_the_way(tiny, family):
    reason = _anatomy(tiny(family)).why_not()
    assert reason is not None
    assert re.search(REASONS[family], reason), reason


def test_a_tied_table_is_shared_with_the_head_and_centred_at_lookup(tiny):
    (stream,) = _anatomy(tiny("gpt2")).convertible()
    shared = {writer.weight: writer.shared for writer in stream.writers if writer.shared}
    assert shared == {"transformer.wte.weight": "lm_head"}
    assert [(door.module, door.at) for door in stream.online] == [("transformer.wte", "output")]


def test_a_stem_that_no_weight_can_centre_gets_a_door(tiny):
    doors = {
        (door.module, door.at)
        for stream in _anatomy(tiny("whisper")).convertible()
        for door in stream.online
    }
    assert doors == {("model.encoder.layers.0", "input"), ("model.decoder.embed_tokens", "output")}


def test_layer_scale_is_folded_with_its_writer(tiny):
    (stream,) = _anatomy(tiny("dinov2")).convertible()
    scales = {writer.scale for writer in stream.writers if writer.scale}
    assert len(scales) == 2 * LAYERS
    assert "dinov2.encoder.layer.0.layer_scale1.lambda1" in scales


def test_q_and_k_norms_are_left_alone(tiny):
    anatomy = _anatomy(tiny("cohere"))
    inner = [site for site in anatomy.sites.values() if site.role == "inner"]
    assert len(inner) == 2 * LAYERS
    reading = {name for stream in anatomy.convertible() for name in stream.sites}
    assert not reading & {site.name for site in inner}


def test_roles_and_readers_of_a_parallel_block(tiny):
    anatomy = _anatomy(tiny("gptj"))
    site = anatomy.sites["transformer.h.0.ln_1"]
    assert site.role == "attention + mlp"
    assert {reader.weight.split("h.0.")[1] for reader in site.readers} == {
        "attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "mlp.fc_in.weight",
    }  # fmt: skip
    assert anatomy.sites["transformer.ln_f"].role == "final"


def test_roles_of_a_sequential_block(tiny):
    anatomy = _anatomy(tiny("opt"))
    assert anatomy.sites["model.decoder.layers.1.self_attn_layer_norm"].role == "attention"
    assert anatomy.sites["model.decoder.layers.1.final_layer_norm"].role == "mlp"


def test_an_exposed_output_is_named(tiny):
    assert _anatomy(tiny("clip")).exposed == ("vision_model_output.last_hidden_state",)
