"""Paths: what is removed at one time, or why nothing can be."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from normsurgery.anatomy.norm_paths import SITES, NormPath, end_token, left_norms, read_paths
from normsurgery.errors import UnsupportedModelError, UsageError
from tests.train.norms.models import examination, fresh

DEFAULT = ("mlp", "attention", "final")
# family → its first block's paths in order, then the final one; what is inner comes only when asked
EXPECTED: dict[str, tuple[dict[str, str], str]] = {
    "gpt2": (
        {
            "transformer.h.0.ln_1:qk": "qk",
            "transformer.h.0.ln_1:v": "v",
            "transformer.h.0.ln_2": "mlp",
        },
        "transformer.ln_f",
    ),
    "gpt_neox": (
        {
            "gpt_neox.layers.0.input_layernorm:qk": "qk",
            "gpt_neox.layers.0.input_layernorm:v": "v",
            "gpt_neox.layers.0.post_attention_layernorm": "mlp",
        },
        "gpt_neox.final_layer_norm",
    ),
    "gpt_neox_sequential": (
        {
            "gpt_neox.layers.0.input_layernorm:qk": "qk",
            "gpt_neox.layers.0.input_layernorm:v": "v",
            "gpt_neox.layers.0.post_attention_layernorm": "mlp",
        },
        "gpt_neox.final_layer_norm",
    ),
    "gptj": (
        {
            "transformer.h.0.ln_1:mlp": "mlp",
            "transformer.h.0.ln_1:qk": "qk",
            "transformer.h.0.ln_1:v": "v",
        },
        "transformer.ln_f",
    ),
    "opt": (
        {
            "model.decoder.layers.0.self_attn_layer_norm:qk": "qk",
            "model.decoder.layers.0.self_attn_layer_norm:v": "v",
            "model.decoder.layers.0.final_layer_norm": "mlp",
        },
        "model.decoder.final_layer_norm",
    ),
    "llama": (
        {
            "model.layers.0.input_layernorm:qk": "qk",
            "model.layers.0.input_layernorm:v": "v",
            "model.layers.0.post_attention_layernorm": "mlp",
        },
        "model.norm",
    ),
    "mixtral": (
        {
            "model.layers.0.input_layernorm:qk": "qk",
            "model.layers.0.input_layernorm:v": "v",
            "model.layers.0.post_attention_layernorm": "mlp",  # its router has a softmax too
        },
        "model.norm",
    ),
    "gemma2": (
        {
            "model.layers.0.input_layernorm:qk": "qk",
            "model.layers.0.input_layernorm:v": "v",
            "model.layers.0.pre_feedforward_layernorm": "mlp",
        },
        "model.norm",
    ),
    "vit": (
        {
            "vit.layers.0.layernorm_before:qk": "qk",
            "vit.layers.0.layernorm_before:v": "v",
            "vit.layers.0.layernorm_after": "mlp",
        },
        "vit.layernorm",
    ),
    "olmo2": ({}, "model.norm"),
}
INNER = {
    "qwen3": ["self_attn.q_norm", "self_attn.k_norm"],
    "gemma2": ["post_attention_layernorm", "post_feedforward_layernorm"],
    "olmo2": [
        "self_attn.q_norm", "self_attn.k_norm",
        "post_attention_layernorm", "post_feedforward_layernorm",
    ],
}  # fmt: skip


def _paths(family: str, sites: tuple[str, ...] = DEFAULT) -> tuple[NormPath, ...]:
    return read_paths(examination(family), fresh(family), sites=sites)


@pytest.mark.parametrize("family", EXPECTED)
def test_paths_in_order_of_execution(family: str) -> None:
    paths = _paths(family)
    block, final = EXPECTED[family]
    assert {path.name: path.kind for path in paths if path.block == 0} == block
    assert [path.name for path in paths if path.block == 0] == list(block)
    assert (paths[-1].name, paths[-1].kind, paths[-1].block) == (final, "final", None)
    blocks = [path.block for path in paths[:-1] if path.block is not None]
    assert blocks == sorted(blocks) and len(blocks) == len(paths) - 1


@pytest.mark.parametrize("family", EXPECTED)
def test_names_are_modules_and_every_site_is_covered_once(family: str) -> None:
    paths, model, anatomy = _paths(family), fresh(family), examination(family).anatomy
    modules = dict(model.named_modules())
    for path in paths:
        assert path.site.name in modules
        assert path.whole == (path.name == path.site.name)
    reading = {name for stream in anatomy.streams for name in stream.sites}
    assert {path.site.name for path in paths} == reading
    for name in reading:
        site, here = anatomy.sites[name], [path for path in paths if path.site.name == name]
        assert len({path.kind for path in here}) == len(here)
        if site.unfoldable:
            assert [path.parts for path in here] == [()]
            continue
        read = Counter(
            (part.reader.module, channel)
            for path in here
            for part in path.parts
            for channel in part.channels or range(_rows(model, part.reader))
        )
        wanted = [(r.module, row) for r in site.readers for row in range(_rows(model, r))]
        assert read == Counter(wanted)


def _rows(model, reader) -> int:
    return int(model.get_parameter(reader.weight).shape[1 - reader.in_dim])


@pytest.mark.parametrize("family", ["gpt2", "phi3", "falcon_new"])
def test_the_twin_has_the_same_paths_with_its_own_channels(family: str) -> None:
    own, twin = examination(family), _paths(family)
    of_twin = read_paths(own, own.twin.model)
    assert [(p.name, p.kind, p.block) for p in of_twin] == [(p.name, p.kind, p.block) for p in twin]
    fused = next(p.parts[0] for p in of_twin if p.kind == "qk")
    rows = own.twin.model.get_parameter(fused.reader.weight).shape[1 - fused.reader.in_dim]
    assert fused.channels is not None and max(fused.channels) < rows


@pytest.mark.parametrize("family", INNER)
def test_inner_norms_are_left_unless_asked(family: str) -> None:
    names = [f"model.layers.{block}.{name}" for block in range(2) for name in INNER[family]]
    assert not {path.name for path in _paths(family)} & set(names)
    left = left_norms(examination(family))
    assert sorted(left) == sorted(names)
    assert all("residual stream" in reason for reason in left.values())
    inner = [path for path in _paths(family, SITES) if path.kind == "inner"]
    assert [path.name for path in inner] == sorted(names, key=[p.name for p in inner].index)
    assert all(path.whole and not path.parts for path in inner)
    assert left_norms(examination(family), sites=SITES) == {}


def test_sites_choose_kinds() -> None:
    assert {path.kind for path in _paths("gptj", ("attention",))} == {"qk", "v"}
    assert {path.kind for path in _paths("gptj", ("mlp", "final"))} == {"mlp", "final"}
    only = _paths("gptj", ("mlp",))[0]
    assert not only.whole and only.name == "transformer.h.0.ln_1:mlp"


def test_norms_before_the_blocks_and_of_other_towers_are_left() -> None:
    assert (
        "before the blocks"
        in left_norms(examination("bloom"))["transformer.word_embeddings_layernorm"]
    )
    left = left_norms(examination("whisper"))
    assert "another tower" in left["model.encoder.layers.0.self_attn_layer_norm"]
    assert all(path.name.startswith("model.decoder.") for path in _paths("whisper"))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bert", r"LayerNorm is post-LN: the residual stream is the norm's output"),
        ("opt_350m", r"final_layer_norm is post-LN"),
        ("bart", r"layer_norm is post-LN"),
    ],
)
def test_post_ln_is_refused(family: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        _paths(family)


def test_a_kind_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no norm of the kinds inner"):
        _paths("gpt2", ("inner",))


@pytest.mark.parametrize("sites", [("mlp", "head"), ()])
def test_a_word_that_is_no_site(sites: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"--sites head is none of mlp|no site is asked"):
        _paths("gpt2", sites)


@pytest.mark.parametrize(
    ("generation", "configured", "expected"),
    [(5, 7, 5), (None, 7, 7), ([8, 9], 7, 8), (None, None, None), (-1, None, None), ([], 4, 4)],
)
def test_end_token(generation: object, configured: object, expected: int | None) -> None:
    model = SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=generation),
        config=SimpleNamespace(eos_token_id=configured),
    )
    assert end_token(model) == expected
