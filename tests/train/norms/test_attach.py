"""A live model with its norms frozen path by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.norm_paths import SITES, read_paths
from normsurgery.errors import SurgeryError, UsageError
from normsurgery.train.norms.attach import Removal, attach
from tests.train.norms import naive
from tests.train.norms.models import (
    checkpointed,
    examination,
    fresh,
    inputs,
    run,
    token_ids,
    training,
)

FAMILIES = [
    "gpt2", "gpt_neox", "gpt_neox_sequential", "gptj", "codegen", "opt", "llama", "llama_grouped",
    "phi3", "bigcode", "falcon_new", "qwen3", "gemma2", "olmo2", "nemotron", "vit", "mixtral",
    "cohere",
]  # fmt: skip
END = 2
NAIVE: dict[str, Callable[[Any, Tensor, naive.Spread], Tensor]] = {
    "gpt2": naive.gpt2,
    "gpt_neox": naive.gpt_neox,
}


def attached(
    family: str, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[Any, Removal]:
    """A fresh model with all of its paths attached and measured once."""
    sites = options.pop("sites", SITES)
    model = fresh(family, dtype)
    removal = attach(model, read_paths(examination(family), model, sites=sites), **options)
    removal.observe([inputs(model, seed=11)])
    return model, removal


def names(removal: Removal, *kinds: str) -> list[str]:
    return [path.name for path in removal.paths if not kinds or path.kind in kinds]


# -- nothing removed ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_invisible_before_anything_is_removed(family: str) -> None:
    plain = fresh(family)
    given = inputs(plain)
    model, _ = attached(family)
    torch.testing.assert_close(run(model, given), run(plain, given), rtol=1e-12, atol=1e-12)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]


@pytest.mark.parametrize("family", ["gpt2", "llama_grouped", "gemma2", "vit"])
def test_invisible_in_float32(family: str) -> None:
    plain = fresh(family, torch.float32)
    given = inputs(plain)
    model, _ = attached(family, torch.float32)
    expected = plain(**given)[0].detach()
    allowed = 1e-5 * float(expected.abs().max())
    assert float((model(**given)[0].detach() - expected).abs().max()) <= allowed


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama_grouped"])
def test_gradients_are_the_untouched_model_s(family: str, checkpointing: bool) -> None:
    plain = fresh(family)
    model, _ = attached(family)
    ids = token_ids()
    for one in (plain, model):
        training(one)
        if checkpointing and one is model:
            checkpointed(one)
        with Float64():
            one(input_ids=ids, labels=ids).loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama_grouped"])
def test_generation_with_a_cache(family: str) -> None:
    plain, ids = fresh(family), token_ids(5)
    model, removal = attached(family)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    expected = plain.generate(ids, attention_mask=mask, **options)
    assert torch.equal(model.generate(ids, attention_mask=mask, **options), expected)
    removal.remove(names(removal))
    longer = torch.cat([ids, token_ids(3, seed=5)], 1)
    whole = run(model, {"input_ids": longer})
    with Float64():
        started = model(ids, use_cache=True)
        rest = model(longer[:, 5:], past_key_values=started.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 5:], rtol=1e-11, atol=1e-11)


def test_detach_gives_the_model_back() -> None:
    model, removal = attached("gpt2")
    expected = run(fresh("gpt2"), inputs(model))
    removal.remove(names(removal))
    assert not torch.allclose(run(model, inputs(model)), expected)
    removal.detach()
    assert torch.equal(run(model, inputs(model)), expected)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model._forward_pre_hooks and not model._forward_hooks


def test_detach_gives_back_a_forward_that_was_not_the_class_s() -> None:
    model = fresh("gpt2")
    paths = read_paths(examination("gpt2"), model)
    module = model.transformer.h[0].attn.c_attn
    own = module.forward = lambda x, forward=module.forward: forward(x)
    attach(model, paths).detach()
    assert module.forward is own


# -- removed --------------------------------------------------------------------------------------


def _spread(removal: Removal, removed: set[str], kinds: Tensor) -> naive.Spread:
    """Divisors as the removal says they are. kinds: [batch, time], 1 first, 2 end, else 0."""
    sigmas = removal.sigmas()

    def spread(path: str, x: Tensor) -> Tensor:
        if path not in removed:
            return naive.true_sigma(path, x)
        one = sigmas[path]
        end = one.ordinary if one.end is None else one.end
        return torch.tensor([one.ordinary, one.first, end], dtype=torch.float64)[kinds][..., None]

    return spread


@pytest.mark.parametrize("family", NAIVE)
@pytest.mark.parametrize(
    "kinds", [("mlp",), ("qk",), ("v",), ("qk", "v"), ("final",), ("mlp", "qk"), ()]
)
def test_each_path_has_its_own_norm(family: str, kinds: tuple[str, ...]) -> None:
    model, removal = attached(family)
    ids = token_ids()
    removed = names(removal, *kinds)
    # q/k and v of one norm are frozen at different times, so at different σ̂
    state = removal.state()
    for name in state["paths"]:
        state["paths"][name]["ordinary"] *= 1.3 if name.endswith(":v") else 0.9
    removal.restore(state)
    removal.remove(removed)
    first = torch.zeros_like(ids)
    first[:, 0] = 1
    with Float64():
        expected = NAIVE[family](model, ids, _spread(removal, set(removed), first))
        ours = model(input_ids=ids).logits
        untouched = NAIVE[family](model, ids, naive.true_sigma)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(ours, untouched, rtol=1e-3)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0)).double()
    parameters = list(model.parameters())
    theirs = torch.autograd.grad(expected, parameters, weights)
    for parameter, one, other in zip(
        parameters, torch.autograd.grad(ours, parameters, weights), theirs, strict=True
    ):
        assert one.shape == parameter.shape
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_ends_of_text_and_first_tokens_have_their_own_until_merged() -> None:
    model, removal = attached("gpt2", end=END)
    ids = token_ids()
    ids[:, 4] = END
    removal.observe([{"input_ids": ids}])
    removal.remove(names(removal))
    kinds = torch.zeros_like(ids)
    kinds[:, 0], kinds[:, 4] = 1, 2
    sigma = removal.sigmas()["transformer.h.0.ln_2"]
    assert len({sigma.ordinary, sigma.first, sigma.end}) == 3
    for which, share in (("end", 0.0), ("end", 0.5), ("end", 1.0), ("first", 0.25), ("first", 1.0)):
        removal.merge(which, share)  # type: ignore[arg-type]
        expected = naive.gpt2(model, ids, _spread(removal, set(names(removal)), kinds))
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-11, atol=1e-11)
        now = removal.sigmas()["transformer.h.0.ln_2"]
        started = sigma.end if which == "end" else sigma.first
        assert started is not None
        wanted = started ** (1 - share) * sigma.ordinary**share
        assert (now.end if which == "end" else now.first) == pytest.approx(wanted, rel=1e-14)
    assert now.ordinary == now.first == now.end


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama_grouped", "phi3", "opt"])
def test_left_padding_changes_no_token(family: str) -> None:
    model, removal = attached(family, end=END)
    removal.remove(names(removal))
    ids = token_ids(6)
    padded = torch.cat([torch.full((2, 3), END), ids], 1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = {"input_ids": padded, "attention_mask": mask}
    if family != "opt":  # it reads positions off the mask
        given["position_ids"] = positions
    expected = run(model, {"input_ids": ids})
    torch.testing.assert_close(run(model, given)[:, 3:], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_frozen_runs_and_one_call_more_changes_nothing(family: str) -> None:
    model, removal = attached(family)
    given = inputs(model)
    removal.remove(names(removal))
    one = run(model, given)
    assert torch.isfinite(one).all()
    assert torch.equal(run(model, given), one)
    assert not torch.allclose(one, run(fresh(family), given), rtol=1e-4)


def test_frozen_is_linear_in_what_it_reads() -> None:
    model, removal = attached("llama_grouped")
    removal.remove(names(removal))
    removal.merge("first")
    norm = model.model.norm
    x, y = torch.randn(2, 1, 4, 48, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(norm(2 * x + y), 2 * norm(x) + norm(y), rtol=1e-12, atol=1e-12)


def test_a_share_mixes_the_real_norm_with_the_frozen_one() -> None:
    model, removal = attached("gpt2")
    ids, path = token_ids(), "transformer.ln_f"
    real = model(input_ids=ids).logits
    removal.remove([path])
    flat = model(input_ids=ids).logits
    removal.remove([path], 0.25)
    mixed = model(input_ids=ids).logits
    torch.testing.assert_close(mixed, 0.75 * real + 0.25 * flat, rtol=1e-10, atol=1e-10)
    assert removal.sigmas()[path].removed and not removal.done
    removal.remove([path], 0.0)
    assert torch.equal(model(input_ids=ids).logits, real)


def test_sites_that_were_not_asked_for_stay_real() -> None:
    model, removal = attached("gptj", sites=("mlp",))
    plain = fresh("gptj")
    given = inputs(plain)
    torch.testing.assert_close(run(model, given), run(plain, given), rtol=1e-12, atol=1e-12)
    both, whole = attached("gptj")
    removal.remove(names(removal))
    whole.remove(names(whole, "mlp"))
    torch.testing.assert_close(run(model, given), run(both, given), rtol=1e-12, atol=1e-12)


def test_half_of_a_fused_reader_attached_alone() -> None:
    model, both = fresh("gpt_neox"), attached("gpt_neox")
    paths = read_paths(examination("gpt_neox"), model)
    removal = attach(model, [path for path in paths if path.kind == "qk"])
    removal.observe([inputs(model, seed=11)])
    removal.remove(names(removal))
    both[1].remove(names(both[1], "qk"))
    given = inputs(model)
    torch.testing.assert_close(run(model, given), run(both[0], given), rtol=1e-12, atol=1e-12)


def test_a_fused_reader_that_is_more_than_a_linear() -> None:
    model = fresh("gpt2")
    paths = read_paths(examination("gpt2"), model)
    for block in model.transformer.h:  # as an adapter or a quantized layer would
        module, own = block.attn.c_attn, block.attn.c_attn.forward
        module.forward = lambda x, own=own: own(x).tanh()
    expected = model(input_ids=token_ids()).logits
    removal = attach(model, paths)
    removal.observe([inputs(model, seed=11)])
    torch.testing.assert_close(
        model(input_ids=token_ids()).logits, expected, rtol=1e-12, atol=1e-12
    )
    site = model.transformer.h[0]
    removal.remove(["transformer.h.0.ln_1:v"])
    x = torch.randn(1, 5, 48, generator=torch.Generator().manual_seed(0)).double()
    width, sigma = 48, removal.sigmas()["transformer.h.0.ln_1:v"].ordinary
    divisor = torch.full((1, 5, 1), sigma, dtype=torch.float64)  # outside of a forward: no kinds
    ours = site.attn.c_attn(site.ln_1(x))
    centred = x - x.mean(-1, keepdim=True)
    fused = site.attn.c_attn
    for channels, by in (
        (slice(0, 2 * width), naive.true_sigma("", x)),
        (slice(2 * width, None), divisor),
    ):
        normed = site.ln_1.weight * centred / by + site.ln_1.bias
        wanted = (normed @ fused.weight[:, channels] + fused.bias[channels]).tanh()
        torch.testing.assert_close(ours[..., channels], wanted, rtol=1e-11, atol=1e-11)


def test_autocast_runs_close_to_float32() -> None:
    model, removal = attached("llama_grouped", torch.float32)
    removal.remove(names(removal, "mlp", "qk"))
    given = inputs(model)
    expected = model(**given)[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(**given)[0].detach()
    assert float((ours - expected).abs().max()) <= 0.05 * float(expected.abs().max())


def test_checkpointing_with_half_of_the_paths_removed_has_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        model, removal = attached("gpt_neox")
        removal.remove(names(removal, "mlp", "qk"))
        removal.remove(names(removal, "v"), 0.5)
        training(model)
        if checkpointing:
            checkpointed(model)
        ids = token_ids()
        with Float64():
            model(input_ids=ids, labels=ids).loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


# -- control --------------------------------------------------------------------------------------


def test_done_when_all_is_frozen_and_merged() -> None:
    _, removal = attached("gpt2", end=END)
    removal.remove(names(removal)[:-1])
    removal.merge("end")
    removal.merge("first")
    assert not removal.done
    removal.remove(names(removal)[-1:])
    assert removal.done
    removal.merge("first", 0.5)
    assert not removal.done


def test_without_an_end_token_only_first_tokens_need_merging() -> None:
    _, removal = attached("gpt2")
    removal.remove(names(removal))
    assert not removal.done
    removal.merge("first")
    assert removal.done


def test_unknown_names_and_odd_shares() -> None:
    _, removal = attached("gpt2")
    with pytest.raises(UsageError, match="is no path"):
        removal.remove(["transformer.h.0.ln_1"])
    with pytest.raises(UsageError, match="from 0 to 1"):
        removal.remove(names(removal), 1.5)
    with pytest.raises(UsageError, match="no kind of token"):
        removal.merge("pad")  # type: ignore[arg-type]


def test_what_was_not_measured_cannot_be_frozen() -> None:
    model = fresh("gpt2")
    removal = attach(model, read_paths(examination("gpt2"), model))
    assert removal.sigmas() == {}
    with pytest.raises(SurgeryError, match="was not measured"):
        removal.remove(names(removal)[:1])
