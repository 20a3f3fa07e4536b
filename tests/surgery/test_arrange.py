"""A rearranged checkpoint, loaded in its stock class, against the same blocks in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.checkpoint import open_checkpoint, write_weights
from normsurgery.errors import UnsupportedModelError, UsageError, VerificationError
from normsurgery.surgery import arrange as module
from normsurgery.surgery.arrange import Arrangement, plan_arrangement
from tests.families import build_spec
from tests.surgery.in_memory import largest_difference, rearranged
from tests.surgery.zoo import ZOO

ROUNDING = 2e-5  # × std, float32
LANGUAGE = [
    *["llama", "llama_biased", "qwen2_window", "qwen3", "qwen3_moe", "mixtral", "gpt_oss"],
    *["gemma2", "gemma3", "olmo2", "smollm3", "phi3", "gpt2", "gpt_neo", "gpt_neox", "falcon"],
    *["falcon_parallel", "cohere2", "deepseek_v3", "granite", "opt", "bloom", "vit", "bert"],
    *["whisper", "t5", "qwen2_vl", "lfm2", "dinov2", "llama4"],
]
OTHER = [("whisper", "encoder"), ("t5", "encoder"), ("qwen2_vl", "visual")]

Zoo = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """`zoo(family)` → a directory and the model that was saved in it (float32)."""
    built: dict[str, tuple[Path, Any]] = {}

    def make(family: str) -> tuple[Path, Any]:
        if family not in built:
            directory = tmp_path_factory.mktemp(family) / "model"
            built[family] = directory, build_spec(ZOO[family], directory)
        return built[family]

    return make


def planned(directory: Path, sources: Any, stack: str | None = None) -> Arrangement:
    checkpoint = open_checkpoint(directory)
    examination = examine(checkpoint)
    chosen = choose_stack(read_stacks(examination), stack)
    if callable(sources):
        sources = sources(chosen.depth)
    return plan_arrangement(checkpoint, examination, chosen, sources)


def written(arrangement: Arrangement, source: Path, out: Path) -> Any:
    """Apply, write and load in the stock class; nothing may be missing or unexpected."""
    arrangement.prove()
    result, _ = arrangement.operate(open_checkpoint(source))
    out.mkdir()
    write_weights(result, out, hashes=False)
    with quiet():
        model, report = arrangement.examination.model_class.from_pretrained(  # type: ignore[attr-defined]
            out, output_loading_info=True
        )
    assert {key: list(value) for key, value in report.items() if value} == {}
    return model.eval()


def check(directory: Path, model: Any, sources: Any, out: Path, stack: str | None = None) -> Any:
    arrangement = planned(directory, sources, stack)
    ours = written(arrangement, directory, out)
    order = [source for source in arrangement.sources if source != "zero"]
    part = str(arrangement.stack.keys[0][0])
    config = getattr(model.config, part) if part.endswith("_config") else model.config
    theirs = rearranged(model, arrangement.stack.name, order, config)
    assert largest_difference(ours, theirs) <= ROUNDING
    assert largest_difference(ours, model) > 1e-3 or arrangement.contract == "exact"
    return ours


PATTERNS = {
    "middle": lambda depth: [0, 1, *range(3, depth)],
    "first": lambda depth: list(range(1, depth)),
    "order": lambda depth: [1, 0, *range(2, depth)],
    "repeat": lambda depth: [*range(depth - 1), *range(2, depth)],
}


CASES = [(family, pattern) for family in LANGUAGE for pattern in PATTERNS if pattern != "middle"]
CASES += [(family, "middle") for family in [*LANGUAGE][::3]]  # "first" and "order" ask for more


@pytest.mark.slow
@pytest.mark.parametrize(("family", "pattern"), CASES)
def test_the_result_is_the_source_with_its_blocks_rearranged(zoo, tmp_path, family, pattern):
    directory, model = zoo(family)
    check(directory, model, PATTERNS[pattern], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("family", "stack"), OTHER)
def test_the_other_stack_of_a_model_with_two(zoo, tmp_path, family, stack, pattern):
    directory, model = zoo(family)
    check(directory, model, PATTERNS[pattern], tmp_path / "out", stack)


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in LANGUAGE if family != "bert"])
def test_zero_blocks_change_nothing_and_are_exact(zoo, tmp_path, family):
    directory, model = zoo(family)
    arrangement = planned(directory, lambda depth: ["zero", 0, *range(1, depth), "zero"])
    assert arrangement.contract == "exact"
    ours = written(arrangement, directory, tmp_path / "out")
    assert largest_difference(ours, model) <= ROUNDING
    before = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) > before


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_generation_with_a_cache_is_the_same(zoo, tmp_path, family):
    directory, model = zoo(family)
    arrangement = planned(directory, [0, 2, 3, 5, 5])
    ours = written(arrangement, directory, tmp_path / "out")
    theirs = rearranged(model, arrangement.stack.name, [0, 2, 3, 5, 5], model.config)
    ids = torch.arange(5, 13).view(2, 4)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "use_cache": True}
    found, expected = (one.generate(ids, **options) for one in (ours, theirs))
    assert torch.equal(found, expected)


def test_what_config_says_of_single_blocks_moves_along(zoo, tmp_path):
    def config_of(family: str, sources: list[Any]) -> dict[str, Any]:
        directory, _ = zoo(family)
        result, _ = planned(directory, sources).operate(open_checkpoint(directory))
        return result.config

    qwen = config_of("qwen2_window", [0, 1, 3, 4])
    assert qwen["max_window_layers"] == 2
    assert qwen["layer_types"] == ["full_attention"] * 2 + ["sliding_attention"] * 2
    assert qwen["num_hidden_layers"] == 4
    assert config_of("qwen3_moe", [1, 2, 4])["mlp_only_layers"] == [0, 2]
    assert config_of("deepseek_v3", [0, 2, 3, 5])["first_k_dense_replace"] == 1
    assert config_of("smollm3", [2, 0, 5])["no_rope_layers"] == [0, 1, 0]
    neo = config_of("gpt_neo", [1, 2, 3])
    assert neo["attention_types"] == [[["local", "global", "local"], 1]]


def test_lists_that_only_the_forward_reads_move_along(zoo):
    directory, _ = zoo("qwen2_5_vl")
    result, _ = planned(directory, [0, 2, 3, 5], "visual").operate(open_checkpoint(directory))
    assert result.config["vision_config"]["fullatt_block_indexes"] == [1, 3]
    assert result.config["vision_config"]["depth"] == 4
    assert result.config["text_config"]["num_hidden_layers"] == 6


def test_a_backbones_taps_name_the_same_blocks(zoo, tmp_path):
    _, config, values = ZOO["dinov2"]
    directory = tmp_path / "model"
    taps = {**values, "out_indices": [2, 6], "stage_names": None, "out_features": None}
    taps = {key: value for key, value in taps.items() if value is not None}
    build_spec(("Dinov2Backbone", config, taps), directory)
    arrangement = planned(directory, [0, 1, 4, 5])
    result, _ = arrangement.operate(open_checkpoint(directory))
    assert result.config["out_indices"] == [2, 4]
    assert result.config["out_features"] == ["stage2", "stage4"]
    with pytest.raises(UnsupportedModelError, match="taken after block 1"):
        planned(directory, [0, 2, 3])


def test_other_keys_keep_their_values_and_order(zoo):
    directory, _ = zoo("llama")
    checkpoint = open_checkpoint(directory)
    marked = checkpoint.with_config({"house_rule": [1, 2, 3, 4, 5, 6], **checkpoint.config})
    result, receipt = planned(directory, [5, 0]).operate(marked)
    assert list(result.config) == list(marked.config)
    assert receipt.config == {"num_hidden_layers": [6, 2]}
    assert result.config["house_rule"] == [1, 2, 3, 4, 5, 6]


def test_a_pattern_that_derives_a_list_gives_way_to_the_list(zoo, tmp_path):
    directory, _ = zoo("gemma3")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in directory.iterdir():
        (bare / file.name).write_bytes(file.read_bytes())
    values = json.loads((bare / "config.json").read_text())
    del values["layer_types"]  # as the first checkpoints of this family were written
    (bare / "config.json").write_text(json.dumps({**values, "sliding_window_pattern": 3}))
    result, _ = planned(bare, [2, 0, 1]).operate(open_checkpoint(bare))
    assert result.config["layer_types"] == [
        "full_attention", "sliding_attention", "sliding_attention",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "sources", "reason"),
    [
        ("deepseek_v3", [2, 0, 1], r"block 0 would have mlp\.class = DeepseekV3MLP"),
        ("swin", [1, 0, 2, 3], r"block 0 would have shift_size = 0 in place of 2"),
        ("bert", ["zero", *range(6)], "post-LN"),
        ("esm", [0, 1, 2], r"contact_head\.regression\.weight has a size that follows"),
        ("qwen3_vl", [0, 1, 2], "the stream is changed between the blocks 0 and 1"),
    ],
)
def test_what_a_class_cannot_express_is_refused_with_the_reason(zoo, family, sources, reason):
    directory, _ = zoo(family)
    stack = "swin.encoder.layers.1.blocks" if family == "swin" else None
    with pytest.raises(UnsupportedModelError, match=reason):
        planned(directory, sources, stack)


def test_a_scale_that_depends_on_the_blocks_number_is_not_passed_over(tmp_path):
    name, config, values = ZOO["gpt2"]
    directory = tmp_path / "model"
    build_spec((name, config, {**values, "scale_attn_by_inverse_layer_idx": True}), directory)
    with pytest.raises((UnsupportedModelError, VerificationError)):
        planned(directory, [1, 2, 3]).prove()
    planned(directory, [0, 1, 2]).prove()  # the last blocks may go


def test_experts_stay_split_or_fused_as_they_lie_on_disk(zoo, tmp_path):
    directory, _ = zoo("mixtral")
    result, _ = planned(directory, [4, "zero", 1]).operate(open_checkpoint(directory))
    names = [name for name in open_checkpoint(directory) if ".layers.4." in name]
    moved = [name.replace(".layers.4.", ".layers.0.") for name in names]
    assert any(".experts.3." in name for name in names)  # one tensor an expert
    assert [name for name in result if ".layers.0." in name] == moved
    split = next(name for name in result if ".layers.1." in name and ".experts.3.w2" in name)
    assert not result[split].load().any()
    gates = split.replace("w2", "w1")
    assert torch.equal(
        result[gates].load(), open_checkpoint(directory)[gates.replace("s.1.", "s.4.", 1)].load()
    )


def test_buffers_of_old_checkpoints_move_with_their_block(zoo, tmp_path):
    from normsurgery.checkpoint import LazyTensor

    directory, _ = zoo("gpt2")
    checkpoint = open_checkpoint(directory)
    masks = {
        f"transformer.h.{n}.attn.bias": LazyTensor.of(torch.full((1, 1, 4, 4), float(n)))
        for n in range(6)
    }
    old = checkpoint.add(masks, beside="transformer.wte.weight")
    examination = examine(old)
    stack = choose_stack(read_stacks(examination))
    result, receipt = plan_arrangement(old, examination, stack, [5, 3]).operate(old)
    assert float(result["transformer.h.0.attn.bias"].load().mean()) == 5
    assert float(result["transformer.h.1.attn.bias"].load().mean()) == 3
    assert len(receipt.dropped) == 4 * 13


@pytest.mark.parametrize("sources", [[6], [0, -1], ["zero", "zero"], []])
def test_a_list_of_no_blocks_is_a_usage_error(zoo, sources):
    with pytest.raises(UsageError):
        planned(zoo("llama")[0], sources)


def test_nothing_is_read_and_shards_stay_where_they_were(zoo, tmp_path):
    _, model = zoo("llama")
    sharded = tmp_path / "sharded"
    model.save_pretrained(sharded, max_shard_size="40KB")
    checkpoint = open_checkpoint(sharded)
    result, _ = planned(sharded, [0, 4, 5]).operate(checkpoint)
    assert all(tensor.range is not None for tensor in result.values())  # copied by the kernel
    for number, source in enumerate([0, 4, 5]):
        new, old = (f"model.layers.{n}.mlp.up_proj.weight" for n in (number, source))
        assert result.shards[new] == checkpoint.shards[old]


def test_the_proof_notices_blocks_that_were_exchanged(zoo, monkeypatch):
    arrangement = planned(zoo("llama")[0], [0, 1, 2])
    real = module.arrange

    def exchanged(source, plan):
        result, receipt = real(source, plan)
        key = "model.layers.{}.mlp.down_proj.weight"
        swapped = {key.format(0): result[key.format(1)], key.format(1): result[key.format(0)]}
        return result.override(swapped), receipt

    monkeypatch.setattr(module, "arrange", exchanged)
    with pytest.raises(VerificationError, match="from the same blocks run in memory"):
        arrangement.prove()
