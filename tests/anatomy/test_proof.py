"""The proof fails when the surgery is sabotaged, and says where."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.probe import probe
from normsurgery.anatomy.proof import EXACT_BOUND
from normsurgery.api.operation import Request
from normsurgery.api.rmsnorm import plan_operation
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError, VerificationError
from tests.families import EXACT


def _operation(directory, **request):
    stock = {} if request.get("to") == "crmsnorm" else {"target": "stock"}
    return plan_operation(open_checkpoint(directory), Request(**stock | request))


def _with_step(operation, step):
    return dataclasses.replace(operation, steps=(*operation.steps, step))


# Norms with a β whose readers have no bias, and norms without γ and β.
NOTHING_FOLDS = {
    "falcon_old", "falcon_new", "falcon_alibi", "stablelm", "stablelm_parallel", "olmo", "nemotron",
    "phimoe", "swinv2",
}  # fmt: skip


@pytest.mark.parametrize("family", EXACT)
def test_folding_gamma_and_beta_is_exact(tiny, family):
    operation = _operation(tiny(family), fold_affine=True)
    assert max(operation.prove().errors.values()) <= EXACT_BOUND
    _, receipts = operation.operate(open_checkpoint(tiny(family)))
    folded = next(r for r in receipts if r.surgery == "fold-affine").parameters["folded"]
    assert (folded == 0) is (family in NOTHING_FOLDS)


def test_stacked_experts_have_no_form_that_the_stock_class_refuses(tiny):
    with pytest.raises(UnsupportedModelError, match=r"experts.* is stacked with others"):
        _operation(tiny("phimoe"), target="graft")


@pytest.mark.parametrize("family", [name for name in EXACT if name != "phimoe"])
def test_the_form_that_the_stock_class_refuses_is_exact(tiny, family):
    proof = _operation(tiny(family), target="graft").prove()
    assert set(proof.errors) == {"graft"}
    assert max(proof.errors.values()) <= EXACT_BOUND


@pytest.mark.parametrize("family", ["gpt2", "opt", "cohere", "whisper", "esm", "mpt"])
def test_untying_is_exact_and_writes_the_head_out(tiny, family):
    source = open_checkpoint(tiny(family))
    operation = _operation(tiny(family), untie=True)
    assert max(operation.prove().errors.values()) <= EXACT_BOUND
    result, receipts = operation.operate(source)
    assert receipts[0].surgery == "untie"
    assert len(receipts[0].added) == 1
    assert result.config["tie_word_embeddings"] is False


NO_CRMSNORM = {
    "bloom": "word_embeddings_layernorm writes its output to the stream",
    "falcon_alibi": r"query_key_value\.bias is added by hand",
    "dinov2": "reads it with cat",
    "dinov2_swiglu": "is only a piece of",
    "whisper": "writes the output of gelu to the stream",
    "clip": "pre_layrnorm writes its output to the stream",
    "mbart": "layernorm_embedding writes its output to the stream",
    "xglm": "adds a table that code computes",
    "pegasus_x": "writes the output of __setitem__ to the stream",
    "modernbert": "embeddings.norm writes its output to the stream",
    "phimoe": "is read by .* too|is stacked with others",
    "wav2vec2": "reads the stream without a norm",
    "segformer": "layer_norm writes its output to the stream",
    "swinv2": "reads it with add",
}


@pytest.mark.parametrize("family", [name for name in EXACT if name not in NO_CRMSNORM])
def test_crmsnorm_is_exact_and_one_channel_narrower(tiny, family):
    operation = _operation(tiny(family), to="crmsnorm")
    proof = operation.prove()
    assert set(proof.errors) == {"graft"}
    assert max(proof.errors.values()) <= EXACT_BOUND
    result, _ = operation.operate(open_checkpoint(tiny(family)))
    widths = {size for tensor in result.values() for size in tensor.shape}
    assert 47 in widths, "48 less one"


@pytest.mark.parametrize("family", NO_CRMSNORM)
def test_crmsnorm_is_refused_with_the_reason(tiny, family):
    with pytest.raises(UnsupportedModelError, match=NO_CRMSNORM[family]):
        _operation(tiny(family), to="crmsnorm")


def test_bloom_s_embedding_norm_is_baked_into_the_table(tiny):
    operation = _operation(tiny("bloom"), target="graft")
    assert max(operation.prove().errors.values()) <= EXACT_BOUND
    result, _ = operation.operate(open_checkpoint(tiny("bloom")))
    assert not any("word_embeddings_layernorm" in name for name in result)
    assert "lm_head.weight" in result


def test_a_graft_that_the_stock_class_opens_is_no_exclusive_one(tiny):
    """Without the guard in config.json the stock class would load it and compute something else."""
    operation = _operation(tiny("gpt2"), target="graft")
    open_to_all = dataclasses.replace(operation.graft, guard=None, config={"auto_map": {}})
    with pytest.raises(VerificationError, match="GPT2LMHeadModel opens the result"):
        dataclasses.replace(operation, graft=open_to_all).prove()


def test_an_exclusive_graft_uses_the_names_in_memory(tiny):
    source = open_checkpoint(tiny("gpt_neox"))
    assert "embed_out.weight" in source, "Pythia's own name, which its stock type renames"
    operation = _operation(tiny("gpt_neox"), target="graft")
    result, receipts = operation.operate(source)
    assert "lm_head.weight" in result
    assert receipts[-1].parameters == {"renamed": 1}


def test_a_writer_left_out_is_named(tiny):
    source = open_checkpoint(tiny("gpt2"))
    left_out = "transformer.h.1.mlp.c_proj.weight"
    operation = _operation(tiny("gpt2"))

    def forget(checkpoint):
        twin = open_checkpoint(checkpoint.directory)
        return checkpoint.override({left_out: twin[left_out]}), operation.operate(source)[1][0]

    with pytest.raises(VerificationError, match=r"h\.1\.mlp\.c_proj\.weight .*not centred"):
        _with_step(operation, forget).prove()


def test_a_bias_left_out_fails_in_the_graft(tiny):
    operation = _operation(tiny("gpt2"))
    receipt = operation.operate(open_checkpoint(tiny("gpt2")))[1][0]

    def forget(checkpoint):
        twin = open_checkpoint(checkpoint.directory)
        name = "transformer.h.0.attn.c_proj.bias"
        return checkpoint.override({name: twin[name]}), receipt

    with pytest.raises(VerificationError, match=r"graft form: logits differs"):
        _with_step(operation, forget).prove()


def test_a_wrong_fold_fails_in_the_stock_class(tiny):
    operation = _operation(tiny("gpt2"), fold_affine=True)
    receipt = operation.operate(open_checkpoint(tiny("gpt2")))[1][0]

    def scale(checkpoint):
        name = "transformer.h.2.attn.c_attn.weight"
        return checkpoint.override({name: checkpoint[name].map(lambda w: w * (1 + 1e-7))}), receipt

    with pytest.raises(VerificationError, match=r"stock form: logits differs"):
        _with_step(operation, scale).prove()


def test_the_probe_feels_a_writer_that_is_none(tiny):
    """An anatomy that takes a reader for a writer is found out by pushing on it."""
    examination = examine(open_checkpoint(tiny("gpt2")))
    (stream,) = examination.anatomy.convertible()
    wrong = dataclasses.replace(
        stream.writers[0], weight="transformer.h.0.mlp.c_fc.weight", bias=None, shared=""
    )
    spoiled = dataclasses.replace(stream, writers=(*stream.writers, wrong))
    anatomy = dataclasses.replace(examination.anatomy, streams=(spoiled,))
    before = {n: p.clone() for n, p in examination.twin.model.named_parameters()}
    with pytest.raises(VerificationError, match=r"written by transformer\.h\.0\.mlp\.c_fc\.weight"):
        probe(examination.twin, anatomy)
    for name, parameter in examination.twin.model.named_parameters():
        assert torch.equal(parameter, before[name]), "the probe left the twin changed"


def test_the_probe_feels_a_reader_that_is_missing(tiny):
    examination = examine(open_checkpoint(tiny("gptj")))
    name = "transformer.h.0.ln_1"
    site = examination.anatomy.sites[name]
    sites = {**examination.anatomy.sites, name: dataclasses.replace(site, readers=site.readers[1:])}
    anatomy = dataclasses.replace(examination.anatomy, sites=sites)
    with pytest.raises(VerificationError, match=r"inverse-scaled at transformer\.h\.0\.ln_1"):
        probe(examination.twin, anatomy)
