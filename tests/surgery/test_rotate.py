"""Streams and value heads rotate exactly where nothing but stored linears sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.frames import read_frames
from normsurgery.anatomy.value_heads import read_value_heads
from normsurgery.api.folding.composition import Composition
from normsurgery.api.folding.planning import plan_folds
from normsurgery.checkpoint import Checkpoint, open_checkpoint, write_weights
from normsurgery.errors import UnsupportedModelError, VerificationError
from normsurgery.surgery.folds import FoldOptions, FoldPlan
from normsurgery.surgery.orthogonal import Rotation
from normsurgery.surgery.rotate import plan_rotate
from normsurgery.surgery.rotate_heads import HeadSite, pieces_of, read_head_sites
from normsurgery.surgery.untie import separate_head
from tests.families import build_spec
from tests.surgery.zoo import ZOO

_TEXT: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 40,
    "vocab_size": 99, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "head_dim": 12}
_FALCON = {**_TEXT, "multi_query": False, "new_decoder_architecture": True, "num_kv_heads": 2}
SPECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT),
    "biased": (
        "LlamaForCausalLM", "LlamaConfig", {**_TEXT, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_GROUPED, "max_window_layers": 2}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT),
    "mixtral": (
        "MixtralForCausalLM", "MixtralConfig",
        {**_GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "gpt_oss": (
        "GptOssForCausalLM", "GptOssConfig",
        {
            **_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM", "DeepseekV3Config",
        {
            **_TEXT, "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16,
            "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
            "v_head_dim": 8, "n_shared_experts": 1,
        },
    ),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_GROUPED, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_GROUPED, "query_pre_attn_scalar": 8}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _TEXT),
    "olmo_tied": ("OlmoForCausalLM", "OlmoConfig", {**_TEXT, "tie_word_embeddings": True}),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"n_layer": 2, "n_embd": 48, "n_head": 4, "vocab_size": 99, "bos_token_id": 1,
         "eos_token_id": 2, "n_positions": 64},
    ),
    "falcon": ("FalconForCausalLM", "FalconConfig", {**_FALCON, "tie_word_embeddings": False}),
    "bert": ("BertForMaskedLM", "BertConfig", _TEXT),
    "base": ("LlamaModel", "LlamaConfig", _TEXT),
    "odd": ("LlamaForCausalLM", "LlamaConfig", {**_TEXT, "hidden_size": 92, "head_dim": 8}),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {
            "vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2,
            "num_heads": 4, "decoder_start_token_id": 0, "tie_word_embeddings": False,
        },
    ),
    "qwen2_vl": ZOO["qwen2_vl"],
}  # fmt: skip
BOTH = ("norm", "rotate")
# What rotates, whether its head must be untied first, and the attentions whose heads rotate too.
ROTATE = {
    "llama": (False, 2), "biased": (False, 2), "mistral": (False, 2), "qwen2": (False, 2),
    "phi3": (False, 2), "mixtral": (False, 2), "gpt_oss": (False, 2), "deepseek_v3": (False, 2),
    "gemma": (True, 2), "olmo_tied": (False, 2), "gpt2": (True, 2), "falcon": (False, 2),
    "odd": (False, 2),
}  # fmt: skip


@dataclass
class Subject:
    """A tiny model on disk, examined; `before` unties its head where that was asked."""

    directory: Path
    source: Checkpoint
    examination: Examination
    loose: Examination
    before: tuple[Any, ...]

    @property
    def start(self) -> Checkpoint:
        checkpoint = self.source
        for step in self.before:
            checkpoint = step(checkpoint)[0]
        return checkpoint

    def composed(self, *what: str, **options: Any) -> Composition:
        asked = FoldOptions(what=what or BOTH, **options)
        plans, _ = plan_folds(self.start, self.loose, asked)
        return Composition(self.examination, self.before, tuple(plans))


Make = Callable[..., Subject]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    root = tmp_path_factory.mktemp("rotate")
    made: dict[tuple[str, bool], Subject] = {}

    def subject(name: str, untie: bool = False) -> Subject:
        if (name, untie) not in made:
            directory = root / name
            if not directory.exists():
                build_spec(SPECS[name], directory)
            source = open_checkpoint(directory)
            examination = examine(source)
            loose, before = examination, ()
            if untie:
                loose, step = separate_head(source, examination)
                before = (step,)
            made[name, untie] = Subject(directory, source, examination, loose, before)
        return made[name, untie]

    return subject


@pytest.mark.parametrize("name", ROTATE)
def test_it_is_proved_on_the_twin_and_the_real_files_agree(
    name: str, make: Make, tmp_path: Path
) -> None:
    untie, heads = ROTATE[name]
    subject = make(name, untie)
    composition = subject.composed(seed=3)
    proof = composition.prove()
    assert max(proof.errors.values()) < 1e-12
    assert min(proof.controls.values()) > 1e-3
    result, receipts = composition.operate(subject.source)
    receipt = receipts[-1]
    assert receipt.surgery == "rotate" and receipt.contract == "exact"
    assert receipt.parameters["attentions"] == heads
    write_weights(result, tmp_path, hashes=False)
    before, after = logits(subject, subject.directory), logits(subject, tmp_path)
    assert float((after - before).abs().max()) < 1e-4 * float(before.std())
    check_receipt(receipt.parameters, tmp_path, subject)


def logits(subject: Subject, directory: Path) -> torch.Tensor:
    model: Any = subject.examination.model_class
    loaded = model.from_pretrained(directory, experts_implementation="eager").eval()
    ids = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = loaded(input_ids=ids).logits
    return found


def check_receipt(parameters: dict[str, Any], directory: Path, subject: Subject) -> None:
    """Q is what the receipt says: the embedding of the result is the source's, rotated."""
    (stream,) = parameters["streams"]
    keys = ("kind", "width", "seed", "keeps_ones")
    q = Rotation(*(stream[key] for key in keys))
    assert q.sha256 == stream["sha256"] and stream["seed"] == 3
    turns = read_frames(subject.loose.twin, subject.loose.anatomy)[0].turns
    table = next(t.parameter for t in turns if "wte" in t.parameter or "embed" in t.parameter)
    name = subject.loose.names.on_disk(table)[0][0]
    old = load_file(subject.directory / "model.safetensors")[name]
    new = load_file(directory / "model.safetensors")[name]
    assert torch.allclose(new.double(), q.of(old.double()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "olmo_tied"])
def test_random_rotations_are_exact_too(name: str, make: Make) -> None:
    composition = make(name).composed(rotation="random", seed=1)
    assert max(composition.prove().errors.values()) < 1e-12
    _, receipts = composition.operate(make(name).source)
    assert receipts[-1].parameters["streams"][0]["kind"] == "random"


def test_a_width_without_a_hadamard_matrix_is_rotated_at_random_and_said(make: Make) -> None:
    plan = planned(make("odd"))
    assert any("no Hadamard matrix of order 92" in note for note in plan.notes)


def planned(subject: Subject, *what: str) -> FoldPlan:
    found = plan_rotate(subject.start, subject.loose, FoldOptions(what=what or BOTH))
    assert isinstance(found, FoldPlan), found
    return found


REFUSALS = {
    "gemma": "embedding and head in one.*--untie",
    "gpt2": "embedding and head in one.*--untie",
    "gemma2": "γ of model.layers.1.post_feedforward_layernorm cannot be folded.*add",
    "olmo2": "γ of model.layers.1.post_feedforward_layernorm cannot be folded.*add",
    "bert": "γ of .* cannot be folded|is read by .* too",
    "base": "output last_hidden_state is the stream itself",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_rotate_is_refused_with_its_reason(name: str, make: Make) -> None:
    subject = make(name)
    with pytest.raises(UnsupportedModelError, match=REFUSALS[name]):
        plan_folds(subject.source, subject.examination, FoldOptions(what=BOTH))


def test_gains_must_be_folded_first(make: Make) -> None:
    with pytest.raises(UnsupportedModelError, match="--what norm,rotate"):
        make("llama").composed("rotate")


def test_without_gains_nothing_must_be_folded_first(make: Make) -> None:
    """OLMo's norms have no parameters, so its tied table turns once for both its uses."""
    composition = make("olmo_tied").composed("rotate")
    assert max(composition.prove().errors.values()) < 1e-12


def test_each_thing_forgotten_is_noticed(make: Make) -> None:
    subject = make("qwen2")
    composition = subject.composed()
    rotate = composition.plans[-1]
    assert set(rotate.wrong) == {
        "a writer unrotated", "a reader unrotated", "an output projection not rotated back",
    }  # fmt: skip
    for wrong in rotate.wrong.values():
        plans = (*composition.plans[:-1], FoldPlan("rotate", wrong, 1))
        spoiled = Composition(subject.examination, (), plans)
        with pytest.raises(VerificationError, match="differs from the source"):
            spoiled.prove()


def test_outputs_that_show_the_stream_are_left_out_and_named(make: Make) -> None:
    """T5's encoder is refused, for its own output reads its last norm; so the decoder is alone."""
    plan = plan_rotate(
        make("t5").source, make("t5").examination, FoldOptions(what=BOTH)
    )  # fmt: skip
    assert isinstance(plan, str) and "output of the model" in plan
    frames = read_frames(make("t5").examination.twin, make("t5").examination.anatomy)
    assert [frame.shown for frame in frames] == [("encoder_last_hidden_state",), ()]


def test_a_tower_that_cannot_rotate_is_left_and_said(make: Make) -> None:
    subject = make("qwen2_vl")
    plan = planned(subject)
    assert "model.visual" in plan.left
    proof = subject.composed().prove()
    assert max(proof.errors.values()) < 1e-12


# -- value heads --------------------------------------------------------------------------------

HEADS = {  # family → (first value channel of each head, in heads; heads of the output)
    "llama": ((0, 1, 2, 3), 4),
    "mistral": ((0, 1), 4),
    "phi3": ((8, 9, 10, 11), 4),
    "gpt2": ((8, 9, 10, 11), 4),
    "falcon": ((2 + 1, 2 + 1 + 4), 4),
    "deepseek_v3": ((1, 3, 5, 7), 4),
    "gpt_oss": ((0, 1), 4),
}


@pytest.mark.parametrize("name", HEADS)
def test_value_heads_are_felt(name: str, make: Make) -> None:
    found, left = read_value_heads(make(name).examination.twin)
    starts, heads = HEADS[name]
    assert len(found) == 2 and not left
    for one in found.values():
        assert one.starts == tuple(start * one.width for start in starts)
        assert one.heads == heads


def test_heads_of_the_real_model_are_what_its_configuration_says(make: Make) -> None:
    """The twin's heads are 16 wide, the model's 12: only their numbers are the same."""
    subject = make("mistral")
    sites, left = read_head_sites(subject.examination)
    assert not left
    config = subject.examination.config.to_dict()
    found = pieces_of(subject.source, subject.examination.names, sites[0], config)
    assert not isinstance(found, str)
    assert (found.width, found.values, found.output) == (12, (0, 12), (0, 12, 24, 36))


def test_heads_that_the_configuration_does_not_explain_are_left(make: Make) -> None:
    subject = make("mistral")
    sites, _ = read_head_sites(subject.examination)
    other = {**subject.examination.config.to_dict(), "num_attention_heads": 5}
    names = subject.examination.names
    assert "does not say" in str(pieces_of(subject.source, names, sites[0], other))
    assert isinstance(sites[0], HeadSite)


def test_gated_values_fail_the_witness(make: Make) -> None:
    """A gate on what attention gives is no rotation's friend."""
    twin = make("llama").examination.twin
    output = twin.model.model.layers[0].self_attn.o_proj
    gate = torch.rand(output.in_features, generator=torch.Generator().manual_seed(0)).double()
    hook = output.register_forward_pre_hook(lambda module, args: (args[0] * gate,))
    try:
        found, left = read_value_heads(twin)
    finally:
        hook.remove()
    assert "model.layers.0.self_attn" in left and "model.layers.1.self_attn" in found
