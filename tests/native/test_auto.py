"""`--target auto`: native where it costs nothing, and every alternative with its price."""

from __future__ import annotations

import io
import json
from pathlib import Path

import normsurgery
from tests.native.conftest import accepted, edited


def converted(source, out, **options):
    return normsurgery.convert(source, out, verify=False, **options).to_dict()["target"]


def test_olmo_becomes_llama_and_stock_is_the_alternative(built, tmp_path):
    target = converted(built("olmo"), tmp_path / "out")
    assert (target["form"], target["architecture"]) == ("native", "LlamaForCausalLM")
    assert target["engines"] == ["transformers", "vllm", "llama.cpp"]
    assert "336 parameters added" in target["why"]
    (stock,) = target["alternatives"]
    assert (stock["form"], stock["architecture"]) == ("stock", "OlmoForCausalLM")
    assert stock["parameters_added"] == 0 and "trust_remote_code" in stock["why_not"]


def test_an_absorber_is_no_free_choice(built, tmp_path):
    target = converted(built("stablelm"), tmp_path / "out")
    assert target["form"] == "stock"
    assert "absorbs the final norm's β" in target["why"]
    llama, ernie = target["alternatives"]
    assert llama["architecture"] == "LlamaForCausalLM" and llama["parameters_added"] > 10_000
    assert llama["context"] == [640, 640] and llama["bytes"] > 300_000
    assert "absorbs" in llama["why_not"]
    assert ernie["architecture"] == "Ernie4_5_MoeForCausalLM"
    assert "no engine but transformers" in ernie["why_not"]


def test_parameters_and_lost_context_are_no_free_choice(built, tmp_path):
    zero = edited(
        built("starcoder2", sliding_window=300), tmp_path / "zero",
        lambda tensors: tensors["model.norm.bias"].zero_(),
    )  # fmt: skip
    plan = accepted(zero)["ArceeForCausalLM"]
    assert plan.why_not_auto() == "the context shrinks from 640 to 300"
    zero = edited(
        built("starcoder2"), tmp_path / "tied",
        lambda tensors: tensors["model.norm.bias"].zero_(),
    )  # fmt: skip
    assert "it adds" in (accepted(zero)["ArceeForCausalLM"].why_not_auto() or "")


def test_a_refusal_is_among_the_alternatives(built, tmp_path):
    target = converted(built("olmo", clip_qkv=0.5), tmp_path / "out")
    assert target["form"] == "stock"
    (llama,) = target["alternatives"]
    assert llama["parameters_added"] is None and "clip_qkv is 0.5" in llama["why_not"]


def test_a_family_without_a_mapping_has_no_alternatives(tiny, tmp_path):
    target = converted(tiny("gpt2"), tmp_path / "out")
    assert target["form"] == "stock" and target["alternatives"] == []
    assert "native" not in target["why"]


def test_options_that_only_the_stock_form_has_choose_it(built, tmp_path):
    assert converted(built("olmo_tied"), tmp_path / "a", untie=True)["form"] == "stock"
    assert converted(built("olmo"), tmp_path / "b", to="crmsnorm")["form"] == "graft"
    assert converted(built("olmo"), tmp_path / "c", target="stock")["form"] == "stock"


def test_inspect_says_what_a_native_target_costs_or_why_there_is_none(built):
    name = "convert --to rmsnorm --target native"

    def row(directory):
        rows = normsurgery.inspect(directory).to_dict()["surgeries"]
        return next(row for row in rows if row["name"] == name)

    assert row(built("olmo"))["target"] == "LlamaForCausalLM"
    assert "336 parameters added" in row(built("olmo"))["reason"]
    refused = row(built("gpt_neox", use_parallel_residual=True))
    assert not refused["applies"] and "its blocks are parallel" in refused["reason"]


def test_the_card_and_the_report_say_expected_and_never_tested(built, tmp_path):
    from rich.console import Console

    from normsurgery.report.convert import surgery_report

    document = normsurgery.convert(built("olmo"), tmp_path / "out", verify=False).to_dict()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Engines expected to run it, from its configuration alone and not tested: vllm" in card
    console = Console(record=True, width=160, file=io.StringIO())
    for part in surgery_report(document):
        console.print(part)
    text = console.export_text()
    assert "vllm, llama.cpp (by its configuration, not tested)" in text
    assert "stock: OlmoForCausalLM" in text
    json.dumps(document)


def test_dtype_is_applied_after_the_algebra_or_before_it_where_it_widens(built, tmp_path):
    source = built("olmo", dtype="bfloat16")
    document = normsurgery.convert(
        source, tmp_path / "out", target="native", dtype="float32"
    ).to_dict()
    assert [receipt["surgery"] for receipt in document["receipts"]] == [
        "cast",
        "centre",
        "retarget",
    ]
    assert document["verification"]["verdict"] == "pass"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["dtype"] == "float32"
    narrow = normsurgery.convert(
        built("olmo"), tmp_path / "narrow", target="native", dtype="bfloat16"
    ).to_dict()
    assert narrow["receipts"][-1]["surgery"] == "cast"
    assert narrow["verification"]["verdict"] == "pass"


def test_shards_are_kept_and_new_tensors_go_to_their_layer_s(built, tmp_path):
    cut = tmp_path / "cut"
    normsurgery.convert(built("stablelm"), cut, target="stock", max_shard_size="60KB", verify=False)
    normsurgery.convert(cut, tmp_path / "out", target="native", verify=False)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())[
        "weight_map"
    ]
    before = {path.name for path in cut.glob("*.safetensors")}
    assert set(index.values()) == before
    norm = index["model.layers.1.self_attn.o_proj.weight"]
    assert index["model.layers.1.self_attn.o_proj.bias"] == norm


def test_the_recipe_runs(built, tmp_path):
    recipe = Path(__file__).parents[2] / "recipes" / "olmo-to-llama.yaml"
    overrides = [f"source={built('olmo_tied')}", f"output={tmp_path / 'out'}"]
    document = normsurgery.run(recipe, overrides=overrides).to_dict()
    assert document["target"]["architecture"] == "LlamaForCausalLM"
    assert document["verification"]["verdict"] == "pass"


def test_inspect_reads_no_matrices_to_see_whether_a_clip_is_reached(built):
    rows = {row["name"]: row for row in normsurgery.inspect(built("dbrx")).to_dict()["surgeries"]}
    native = rows["convert --to rmsnorm --target native"]
    assert not native["applies"]
    assert "only the weights tell" in native["reason"]
