"""Every recipe that ships names a real model, spells out defaults, and runs on a tiny one."""

from __future__ import annotations

import inspect
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch.nn.functional import gelu
from transformers import AutoModelForCausalLM

import normsurgery
from normsurgery.recipe import read_recipe
from tests.batchnorm_families import build_batch_norms
from tests.families import build_spec
from tests.less_text import measured_on_less_text as measured_on_less_text
from tests.native.families import FAMILIES as NATIVE

RECIPES = Path(__file__).parents[1] / "recipes"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# What each recipe says of its step that is not the default.
CHOSEN: dict[str, dict[str, Any] | list[dict[str, Any]]] = {
    "gpt2-to-rmsnorm": {},
    "olmo-to-llama": {"target": "native"},
    "resnet-folded": {},
    "llama-minus-quarter": {"drop": "25%", "substitute": "merge", "heal": "sequential"},
    "heal-minus-quarter": {"teacher": "meta-llama/Llama-2-7b-hf", "steps": 100},
    "depth-upscaling": {"blocks": "0-23,8-31"},
    "rotate-before-quantization": {"what": ["norm", "rotate"]},
    "gpt2-without-norms": {
        "finetune": True,
        "data": "HuggingFaceFW/fineweb:sample-10BT",
        "schedule": "gpt2",
    },
    "gpt2-without-norms-stock": {
        "finetune": True,
        "data": "HuggingFaceFW/fineweb:sample-10BT",
        "schedule": "gpt2",
        "export": "stock",
    },
    "pythia-without-norms": {"finetune": True, "data": "monology/pile-uncopyrighted"},
    "vit-native": {"target": "native"},
    "prune-and-heal": [
        {"drop": "25%", "substitute": "merge", "heal": "sequential"},
        {"teacher": None, "steps": 100},  # null: the recipe's source
    ],
}
SMALL = ["device=cpu", "steps.0.tokens=1500", "steps.0.max_length=64"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A tiny random Llama of six blocks with a tokenizer."""
    directory = tmp_path_factory.mktemp("llama") / "model"
    values = {
        "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "num_hidden_layers": 6, "vocab_size": 1024,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    build_spec(("LlamaForCausalLM", "LlamaConfig", values), directory)
    for name in TOKENIZER:
        shutil.copy(trained / name, directory / name)
    return directory


@pytest.fixture(scope="module")
def cut(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What recipes/llama-minus-quarter.yaml makes of it, and its document."""
    out = tmp_path_factory.mktemp("cut") / "out"
    return out, ran("llama-minus-quarter", llama, out, *SMALL)


def ran(name: str, source: Path, output: Path, *changes: str) -> dict[str, Any]:
    overrides = [f"source={source}", f"output={output}", *changes]
    document = normsurgery.run(RECIPES / f"{name}.yaml", overrides=overrides).to_dict()
    assert document["verification"]["verdict"] == "pass"
    return document


def test_these_are_all_recipes() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(CHOSEN)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_recipe_spells_out_defaults_and_says_what_differs(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    read_recipe(path)
    differs = []
    for written in yaml.safe_load(path.read_text(encoding="utf-8"))["steps"]:
        surgery = written.pop("surgery")
        module = import_module(f"normsurgery.api.{surgery}")
        defaults = inspect.signature(getattr(module, surgery)).parameters
        differs.append({k: v for k, v in written.items() if v != defaults[k].default})
    chosen = CHOSEN[name]
    assert differs == (chosen if isinstance(chosen, list) else [chosen])


@pytest.mark.parametrize("name", CHOSEN)
def test_an_editor_finds_the_schema_of_a_recipe(name: str) -> None:
    first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert (RECIPES / first.removeprefix("# yaml-language-server: $schema=")).is_file()


@pytest.mark.parametrize("name", CHOSEN)
def test_a_comment_stands_above_every_key_or_group_of_keys(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100
    for paragraph in text.split("\n\n"):
        keys = [line for line in paragraph.splitlines() if line.strip()]
        assert keys[0].lstrip().startswith("#") or keys[0] == "steps:"


@pytest.mark.parametrize("name", CHOSEN)
def test_the_commands_in_a_recipe_s_comments_are_its_own(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if "normsurgery run" in line]
    assert commands
    for line in commands:
        words = line.split("#")[1].split()
        path = Path(next(word for word in words if word.endswith(".yaml")))
        assert path.parent == Path("recipes")
        changes = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        read_recipe(RECIPES / path.name, changes)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_recipe_shows_how_its_output_is_pushed(name: str, tmp_path: Path) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "r.yaml").write_text(with_push(text), encoding="utf-8")
    plain, pushing = read_recipe(RECIPES / f"{name}.yaml"), read_recipe(tmp_path / "r.yaml")
    assert plain.push == {} and pushing.settings == plain.settings
    to = f"your-name/{plain.output}"
    assert pushing.push == {"to": to, "private": True, "create_pr": False}
    assert f"`push: {to}`" in text and f"--set push={to}" in " ".join(text.split("\n# "))


def with_push(text: str) -> str:
    """A recipe with the comment signs in front of `push` and its keys taken off."""
    before, key, after = text.partition("# push:\n")
    keys, blank, rest = after.partition("\n\n")
    lines = [line.removeprefix("# ").removeprefix("#") for line in (key + keys).splitlines()]
    return before + "\n".join(lines) + "\n" + blank + rest


def test_gpt2_to_rmsnorm(trained: Path, tmp_path: Path) -> None:
    document = ran("gpt2-to-rmsnorm", trained, tmp_path / "out", "device=cpu")
    assert document["verification"]["contract"] == "exact"


def test_resnet_folded(tmp_path: Path) -> None:
    build_batch_norms("resnet", tmp_path / "resnet")
    for form in ("keep", "graft"):
        changes = ["device=cpu", f"steps.0.form={form}"]
        document = ran("resnet-folded", tmp_path / "resnet", tmp_path / form, *changes)
        assert document["verification"]["contract"] == "exact"
        assert document["batch_norms"]["folded"] == 8


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    """What makes a removal of norms cheap."""
    schedule = tmp_path / "quick.yaml"
    schedule.write_text(
        "{steps: 6, start: 1, gap_mlp: 0.1, gap_qk: 0.1, gap_v: 0.1, gap_final: 1, gap_end: 1, "
        "gap_first: 1, learning_rate: 0.0001}"
    )
    said = [f"schedule={schedule}", "data=sample:prose", "batch_size=2", "control=false"]
    return [*SMALL, *(f"steps.0.{one}" for one in said)]


def test_gpt2_without_norms_and_in_its_own_class(
    trained: Path, tmp_path: Path, quick: list[str]
) -> None:
    for name, form in (("gpt2-without-norms", "graft"), ("gpt2-without-norms-stock", "stock")):
        document = ran(name, trained, tmp_path / form, *quick)
        assert document["verification"]["contract"] == "trained"
        assert document["training"]["steps"] == 6
        assert document["target"]["form"] == form
    check_lens_tools(tmp_path / "graft")


def test_pythia_without_norms(trained: Path, tmp_path: Path, quick: list[str]) -> None:
    values = {
        "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
        "intermediate_size": 48, "vocab_size": 1024, "max_position_embeddings": 128,
        "bos_token_id": 0, "eos_token_id": 0, "use_parallel_residual": True,
    }  # fmt: skip
    build_spec(("GPTNeoXForCausalLM", "GPTNeoXConfig", values), tmp_path / "pythia")
    for name in TOKENIZER:
        shutil.copy(trained / name, tmp_path / "pythia" / name)
    document = ran("pythia-without-norms", tmp_path / "pythia", tmp_path / "out", *quick)
    assert document["verification"]["contract"] == "trained"
    assert document["target"]["form"] == "graft"
    with safe_open(tmp_path / "out/model.safetensors", "pt") as saved:
        assert not [name for name in saved.keys() if "norm" in name]


def test_vit_native(tmp_path: Path) -> None:
    build_spec(NATIVE["vit_msn"], tmp_path / "vit")
    document = ran("vit-native", tmp_path / "vit", tmp_path / "out", "device=cpu")
    assert document["target"]["architecture"] == "InternVLVisionModel"
    assert document["verification"]["contract"] == "exact"


def test_prune_and_heal_in_one_run(llama: Path, tmp_path: Path) -> None:
    second = ["tokens=1500", "max_length=64", "steps=2", "batch_size=2"]
    document = ran(
        "prune-and-heal",
        llama,
        tmp_path / "out",
        *SMALL,
        "steps.0.method=angular",
        *(f"steps.1.{one}" for one in second),
    )
    assert [one["contract"] for one in document["steps"]] == ["fitted", "trained"]
    assert (document["blocks"]["before"], document["blocks"]["after"]) == (6, 5)
    assert document["training"]["steps"] == 2
    recorded = json.loads((tmp_path / "out/surgery.json").read_text())["recipe"]
    assert recorded["source"] == llama.name and recorded["steps"][1]["teacher"] is None
    card = (tmp_path / "out/README.md").read_text()
    assert "### Step 2: `heal`, held against what step 1 made" in card
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def check_lens_tools(graft: Path) -> None:
    """What the docs read out of a graft is a GPT-2 without norms, in TransformerLens' terms."""
    page = (RECIPES.parent / "docs" / "surgeries" / "remove-ln.md").read_text(encoding="utf-8")
    blocks = page.split("```python\n")[1:]
    code = next(block for block in blocks if "unembed.W_U" in block).partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace('"gpt2-normfree/', f'"{graft}/'), names)
    lens = {name: value.double() for name, value in names["state"].items()}
    model = AutoModelForCausalLM.from_pretrained(graft, trust_remote_code=True).double()
    ids = torch.randint(0, 1000, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(ids).logits
    made = without_norms(lens, ids, int(names["config"]["n_layer"]))
    assert float((made - wanted).abs().max() / wanted.std()) < 1e-9


def without_norms(lens: dict[str, torch.Tensor], ids: torch.Tensor, layers: int) -> torch.Tensor:
    """The logits, spelled out."""
    time = ids.shape[1]
    future = torch.full((time, time), -torch.inf, dtype=torch.float64).triu(1)
    stream = lens["embed.W_E"][ids] + lens["pos_embed.W_pos"][:time]
    for layer in range(layers):
        w = {k.removeprefix(f"blocks.{layer}."): v for k, v in lens.items()}
        q, k, v = (
            torch.einsum("btd,hde->bhte", stream, w[f"attn.W_{name}"])
            + w[f"attn.b_{name}"][:, None]
            for name in "QKV"
        )
        pattern = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 + future, -1)
        stream = stream + torch.einsum("bhte,hed->btd", pattern @ v, w["attn.W_O"]) + w["attn.b_O"]
        inner = gelu(stream @ w["mlp.W_in"] + w["mlp.b_in"], approximate="tanh")
        stream = stream + inner @ w["mlp.W_out"] + w["mlp.b_out"]
    return stream @ lens["unembed.W_U"] + lens["unembed.b_U"]


def test_llama_minus_quarter(cut: tuple[Path, dict[str, Any]]) -> None:
    out, document = cut
    assert document["blocks"]["before"] == 6 and document["blocks"]["after"] == 5
    assert document["verification"]["contract"] == "fitted"
    assert (document["substitution"]["name"], document["healing"]["name"]) == (
        "merge", "sequential",
    )  # fmt: skip
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 5
    assert set(document["losses"]) == {"calibration", "other"}


def test_the_healing_recipe_goes_on_from_the_pruning_one(
    cut: tuple[Path, dict[str, Any]], llama: Path, tmp_path: Path
) -> None:
    pruning, healing = (
        read_recipe(RECIPES / f"{name}.yaml")
        for name in ("llama-minus-quarter", "heal-minus-quarter")
    )
    assert healing.source == pruning.output
    assert healing.steps[0].options["teacher"] == pruning.source
    changes = [f"steps.0.teacher={llama}", "steps.0.steps=2", "steps.0.batch_size=2"]
    document = ran("heal-minus-quarter", cut[0], tmp_path / "out", *SMALL, *changes)
    assert document["verification"]["contract"] == "trained"
    assert document["training"]["steps"] == 2
    assert document["blocks"]["after"] == 5


def test_depth_upscaling_and_its_exact_variant(llama: Path, tmp_path: Path) -> None:
    lossy = ran("depth-upscaling", llama, tmp_path / "a", "device=cpu", "steps.0.blocks=0-3,2-5")
    assert lossy["blocks"]["order"] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert lossy["verification"]["contract"] == "lossy"
    variant = commented_blocks().replace("6-7,zero", "|").partition(",|")[0]
    exact = ran("depth-upscaling", llama, tmp_path / "b", "device=cpu", f"steps.0.blocks={variant}")
    assert exact["blocks"]["order"] == [0, 1, "zero", 2, 3, "zero", 4, 5, "zero"]
    assert exact["verification"]["contract"] == "exact"


def test_rotate_before_quantization(llama: Path, tmp_path: Path) -> None:
    document = ran("rotate-before-quantization", llama, tmp_path / "out", "device=cpu")
    assert document["verification"]["contract"] == "exact"
    assert [one["name"] for one in document["folds"] if one["applies"]] == ["norm", "rotate"]
    assert document["kurtosis"]["measured"]


def commented_blocks() -> str:
    """The `blocks` of the exact variant, as they are read once the comment signs are gone."""
    text = (RECIPES / "depth-upscaling.yaml").read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("#   ") for line in text.splitlines()]
    start = lines.index("blocks:")
    return str(yaml.safe_load("\n".join(lines[start : start + 3]))["blocks"])


def test_the_exact_variant_is_as_deep_as_the_other_one() -> None:
    from normsurgery.surgery.block_lists import parse_blocks

    depth = 32  # Mistral-7B's
    recipe = read_recipe(RECIPES / "depth-upscaling.yaml")
    assert len(parse_blocks(recipe.steps[0].options["blocks"], depth)) == 48
    exact = parse_blocks(commented_blocks(), depth)
    assert len(exact) == 48
    assert [block for block in exact if block != "zero"] == list(range(depth))
