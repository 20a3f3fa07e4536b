"""Frozen divisors in the readers: the same function, in a graft and in the stock class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from normsurgery.anatomy.epsilon import epsilon_key
from normsurgery.anatomy.new_bias import takes_new_bias
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.twin import relative_error
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError, VerificationError
from normsurgery.surgery.frozen_sites import frozen_sites
from normsurgery.surgery.norm_free_stock import smallest_power
from normsurgery.train.norms.attach import attach
from normsurgery.train.norms.variance import largest_variance
from tests.surgery.norm_free_models import MODELS, opened, subject, written

STOCK = ("gpt2", "gpt2_untied", "gpt_neox", "llama", "llama_tied", "qwen3_inner", "mixtral",
         "gemma2_inner", "vit")  # fmt: skip
HUGE = 1e6  # so that ε is as large as it may be


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`models(name)` → a Subject, made once a module."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = subject(name, tmp_path_factory.mktemp("source") / name)
        return made[name]

    return make


@pytest.mark.parametrize("name", MODELS)
def test_a_graft_computes_what_the_frozen_norms_compute(models, tmp_path, name):
    one = models(name)
    plan = one.plan("graft")
    result, receipts = plan.operate(one.checkpoint)
    directory = written(result, tmp_path / "out")
    model = opened(plan.forms["graft"](directory), directory)
    error, where = relative_error(run_outputs(model, one.inputs()), one.expected())
    assert error <= 1e-9, where
    gone = {path.site.name for path in one.paths}
    kinds = {n: type(m).__name__ for n, m in model.named_modules() if n in gone}
    assert set(kinds.values()) <= {"Identity", "Affine"}
    assert receipts[-1].norms["before"] == {one.paths[0].site.norm.kind: len(gone)}


@pytest.mark.parametrize("name", MODELS)
def test_the_proof_passes_and_notices_what_is_wrong(models, name):
    plan = models(name).plan("graft")
    proof = plan.prove()
    assert proof.errors["graft"] <= 1e-9
    assert proof.controls["graft"] > 1e-6


@pytest.mark.parametrize("name", STOCK)
def test_the_stock_form_computes_it_in_its_own_class(models, tmp_path, name):
    one = models(name)
    plan = one.plan("stock")
    assert plan.division is not None and plan.division.error <= 1e-6
    result, _ = plan.operate(one.checkpoint)
    directory = written(result, tmp_path / "out")
    model = opened(type(one.model), directory)
    assert type(model) is type(one.model)
    error, where = relative_error(run_outputs(model, one.inputs()), one.expected())
    assert 0 < error <= 1e-4, where  # var/2ε a norm, and what the blocks make of it
    assert plan.prove().errors["stock"] <= 1e-9
    assert set(result) == set(one.checkpoint)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mixtral"])
@pytest.mark.parametrize("export", ["graft", "stock"])
def test_a_wrong_result_is_noticed(models, tmp_path, name, export):
    one = models(name)
    first, *_, last = one.sigma
    sigma = {**one.sigma, first: one.sigma[last], last: one.sigma[first]}
    plan = one.plan(export)
    result, _ = replace(plan, sigma=sigma).operate(one.checkpoint)
    directory = written(result, tmp_path / "out")
    model = opened(plan.forms[export](directory), directory)
    assert relative_error(run_outputs(model, one.inputs()), one.expected())[0] > 1e-3


def test_a_surgery_that_forgets_P_fails_the_proof(models, monkeypatch):
    monkeypatch.setattr("normsurgery.surgery.norm_free.divided", _without_centring)
    with pytest.raises(VerificationError, match="differs from the source's"):
        models("gpt2").plan("graft").prove()


def _without_centring(weight, divisor, **options):
    from normsurgery.surgery.algebra import divided

    return divided(weight, divisor, **{**options, "centre": False})


def test_the_live_model_of_the_training_and_the_export_agree(models, tmp_path):
    one = models("gpt_neox")
    removal = attach(one.model, one.paths)
    try:
        removal.observe([one.inputs()])
        removal.remove([path.name for path in one.paths])
        removal.merge("first")
        live = run_outputs(one.model, one.inputs())
        sigma = {name: found.ordinary for name, found in removal.sigmas().items()}
    finally:
        removal.detach()
    assert len(set(sigma.values())) > 3
    plan = one._replace(sigma=sigma).plan("graft")
    directory = written(plan.operate(one.checkpoint)[0], tmp_path / "out")
    model = opened(plan.forms["graft"](directory), directory)
    assert relative_error(run_outputs(model, one.inputs()), live)[0] <= 1e-9


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2_inner"])
def test_the_stock_form_is_finite_in_every_dtype(tmp_path, name, dtype):
    one = subject(name, tmp_path / "source", dtype=dtype)
    # A tied head's norm holds γ √ε/σ̂: γ is at most 1.5 here, where γ − 1 is stored at most 2.5.
    sigma = {name: max(value, 3.0) for name, value in one.sigma.items()}
    plan = one._replace(sigma=sigma).plan("stock", variance=HUGE)
    assert plan.division is not None and plan.division.power == 15
    directory = written(plan.operate(one.checkpoint)[0], tmp_path / "out")
    model = opened(type(one.model), directory, dtype=getattr(torch, dtype))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    stored = {t.dtype for t in open_checkpoint(directory).values()}
    assert stored == {t.dtype for t in one.checkpoint.values()}
    expected = one._replace(sigma=sigma).expected()["logits"]
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in one.inputs().items()}
    with torch.no_grad():
        found = model(**inputs).logits.double()
    allowed = {"float16": 0.05, "bfloat16": 0.3, "float32": 1e-3}[dtype]
    assert found.isfinite().all()
    assert relative_error({"logits": found}, {"logits": expected})[0] < allowed


def test_the_power_is_the_smallest_that_is_exact_enough():
    assert smallest_power(1.0) == (10, 1 / (2 * 4.0**10))
    assert smallest_power(0.0) == (0, 0.0)
    power, error = smallest_power(1e5)
    assert power == 15
    assert 1e-6 < error < 1e-3
    with pytest.raises(UnsupportedModelError, match="variance of 1e"):
        smallest_power(1e7)


def test_the_largest_variance_is_that_of_the_norms_inputs(models):
    one = models("llama")
    seen = largest_variance(one.model, one.paths, [one.inputs()])
    with torch.no_grad():
        states = one.model.model(**one.inputs(), output_hidden_states=True).hidden_states
    stream = max(float(state.square().mean(-1).max()) for state in states[:-1])
    assert seen >= stream > 0


# -- what is refused


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), None])
def test_a_divisor_that_is_no_number_above_zero_is_refused(models, value):
    one = models("llama")
    sigma = {**one.sigma, next(iter(one.sigma)): value}
    with pytest.raises(UsageError, match="must be a number above 0"):
        one._replace(sigma=sigma).plan("graft")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen3", "k_norm stays a norm and takes its ε from the same key, rms_norm_eps"),
        ("gemma2", "stays a norm and takes its ε from the same key"),
        ("gpt2_mlp", "stays a norm and takes its ε from the same key"),
        ("opt", "its ε is written in the code of the class"),
        ("gptj", "q_proj has no bias to take β, and its paths have different σ̂"),
    ],
)
def test_the_stock_form_refuses_with_the_reason(models, name, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        models(name).plan("stock")


def test_what_a_form_cannot_hold_is_known_before_any_divisor_is(models):
    """With one σ̂ for all, as before a training: the paths part later."""
    one = models("gptj")
    same = one._replace(sigma=dict.fromkeys(one.sigma, 1.0))
    with pytest.raises(UnsupportedModelError, match="its paths have different σ̂"):
        same.plan("stock", variance=1.0)
    assert same.plan("graft").form == "graft"


def test_float16_is_warned_of_where_the_class_divides_first(models):
    one = models("llama")
    small = one._replace(sigma=dict.fromkeys(one.sigma, 0.05))
    notes = small.plan("stock", variance=HUGE).notes
    assert any("run in float16, LlamaRMSNorm loses digits" in note for note in notes)
    large = one._replace(sigma=dict.fromkeys(one.sigma, 50.0))
    assert not [note for note in large.plan("stock", variance=HUGE).notes if "float16" in note]
    gpt2 = models("gpt2_untied")  # its kernel multiplies before it rounds
    small = gpt2._replace(sigma=dict.fromkeys(gpt2.sigma, 0.05))
    assert not [note for note in small.plan("stock", variance=HUGE).notes if "float16" in note]


def test_the_stock_form_needs_a_variance(models):
    with pytest.raises(UsageError, match="largest variance"):
        models("llama").plan("stock", variance=None)


def test_a_tied_head_whose_norm_would_overflow_float16_is_untied_or_refused(tmp_path):
    one = subject("gpt2", tmp_path / "source", dtype="float16")
    small = one._replace(sigma={**one.sigma, "transformer.ln_f": 0.01})
    with pytest.raises(UnsupportedModelError, match=r"ln_f has to hold γ √ε/σ̂ itself") as caught:
        small.plan("stock", variance=1000.0)
    assert "--export graft" in caught.value.hint
    plan = small.plan("stock", variance=1000.0, untie=True)
    result, _ = plan.operate(one.checkpoint)
    assert result.config["tie_word_embeddings"] is False
    assert "lm_head.weight" in result
    assert plan.prove().errors["stock"] <= 1e-9


def test_half_a_site_is_refused(models):
    one = models("gptj")
    half = tuple(path for path in one.paths if path.kind == "mlp")
    with pytest.raises(UnsupportedModelError, match="is on no path that is removed"):
        one._replace(paths=half).plan("graft")
    fused = models("gpt_neox")
    values = tuple(path for path in fused.paths if path.kind != "qk")
    sites = frozen_sites(values, fused.sigma, fused.examination.anatomy, biasable=())
    with pytest.raises(UnsupportedModelError, match="some of its outputs keep a norm"):
        sites[0].readers[0].divisor(144)


def test_a_quantized_reader_is_refused(models, tmp_path):
    from safetensors.torch import load_file, save_file

    one = models("llama")
    directory = written(one.checkpoint, tmp_path / "copy")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"q_proj\.weight is I8"):
        one.plan("graft").operate(open_checkpoint(directory))


# -- the witnesses


def test_the_key_of_epsilon_is_found_where_all_follow(models):
    one = models("llama")
    names = [path.site.name for path in one.paths]
    assert epsilon_key(one.examination, names) == ("rms_norm_eps",)


def test_linears_take_a_bias_and_stacks_of_experts_do_not(models):
    twin = models("phimoe").examination.twin
    layer = "model.layers.0"
    experts = twin.model.get_submodule(f"{layer}.mlp.experts")
    assert takes_new_bias(twin, ["lm_head", f"{layer}.mlp.router", f"{layer}.mlp.experts"]) == {
        "lm_head"
    }
    assert not hasattr(experts, "bias")
    assert twin.model.lm_head.bias is None or twin.model.lm_head.bias.abs().sum() > 0
