"""σ̂: over which tokens, when it moves, and that it is kept exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from normsurgery.anatomy.norm_paths import read_paths
from normsurgery.errors import UsageError
from normsurgery.train.norms.attach import Removal, attach
from normsurgery.train.norms.statistics import Sums, means
from tests.train.norms import naive
from tests.train.norms.models import checkpointed, examination, fresh, token_ids, training
from tests.train.norms.processes import measure, share

END = 2
PATH = "transformer.h.1.ln_2"


def attached(**options: Any) -> tuple[Any, Removal]:
    model = fresh("gpt2")
    training(model)
    paths = read_paths(examination("gpt2"), model)
    return model, attach(model, paths, end=END, **options)


def true_sigmas(ids: Tensor) -> dict[str, Tensor]:
    """σ of each token at each path of the untouched model, [batch, time]."""
    found: dict[str, Tensor] = {}

    def spread(path: str, x: Tensor) -> Tensor:
        sigma = naive.true_sigma(path, x)
        found[path] = sigma[..., 0].detach()
        return sigma

    naive.gpt2(fresh("gpt2"), ids, spread)
    return found


def step(model: Any, ids: Tensor, **others: Tensor) -> None:
    model(input_ids=ids, **others).logits.sum().backward()


@pytest.fixture
def ids() -> Tensor:
    ids = token_ids(10, batch=3)
    ids[0, 4] = ids[2, 0] = ids[2, 7] = END
    return ids


def test_means_by_kind(ids: Tensor) -> None:
    model, removal = attached()
    step(model, ids)
    assert removal.sigmas() == {}  # not before a tick
    removal.tick()
    ordinary = torch.ones_like(ids, dtype=torch.bool)
    ordinary[:, 0] = ordinary[0, 4] = ordinary[2, 7] = False
    for path, sigma in true_sigmas(ids).items():
        found = removal.sigmas()[path]
        assert found.ordinary == pytest.approx(float(sigma[ordinary].mean()), rel=1e-12)
        assert found.first == pytest.approx(float(sigma[:, 0].mean()), rel=1e-12)
        end = (float(sigma[0, 4]) + float(sigma[2, 7])) / 2
        assert found.end == pytest.approx(end, rel=1e-12)
        assert not found.removed


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_count_nowhere(ids: Tensor, side: str) -> None:
    model, removal = attached()
    step(model, ids)
    removal.tick()
    pads = torch.full((3, 4), END)
    mask = torch.ones(3, 10, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long)
    order = (1, 0) if side == "left" else (0, 1)
    padded = torch.cat([(ids, pads)[part] for part in order], 1)
    masks = torch.cat([mask[part] for part in order], 1)
    other_model, other = attached()
    positions = (masks.cumsum(-1) - 1).clamp(min=0)
    step(other_model, padded, attention_mask=masks, position_ids=positions)
    other.tick()
    for path, sigma in removal.sigmas().items():
        found = other.sigmas()[path]
        assert found.ordinary == pytest.approx(sigma.ordinary, rel=1e-9)
        assert (found.first, found.end) == pytest.approx((sigma.first, sigma.end), rel=1e-9)


def test_the_average_moves_once_a_tick_and_not_once_a_forward(ids: Tensor) -> None:
    model, removal = attached(decay=0.75)
    batches = [token_ids(10, batch=3, seed=seed) for seed in range(4)]
    step(model, batches[0])
    removal.tick()
    for batch in batches[1:]:  # accumulated
        step(model, batch)
    removal.tick()
    means = [true_sigmas(batch)[PATH][:, 1:].mean() for batch in batches]
    expected = 0.75 * means[0] + 0.25 * (means[1] + means[2] + means[3]) / 3
    assert removal.sigmas()[PATH].ordinary == pytest.approx(float(expected), rel=1e-12)
    removal.tick()  # nothing ran
    assert removal.sigmas()[PATH].ordinary == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_run_again_count_once(ids: Tensor, reentrant: bool) -> None:
    model, removal = attached()
    step(model, ids)
    step(model, ids[:1])
    removal.tick()
    again, other = attached()
    checkpointed(again, use_reentrant=reentrant)
    again.enable_input_require_grads()
    step(again, ids)
    step(again, ids[:1])
    other.tick()
    # the second batch weighs a third of the first: counted twice it would weigh more or less
    for path, sigma in removal.sigmas().items():
        assert other.sigmas()[path].ordinary == pytest.approx(sigma.ordinary, rel=1e-12)


def test_what_does_not_train_does_not_count(ids: Tensor) -> None:
    model, removal = attached()
    step(model, ids)
    with removal.still():
        step(model, ids[:1])
    with torch.no_grad():
        model(input_ids=ids[1:2])
    removal.tick()
    expected = true_sigmas(ids)["transformer.ln_f"][:, 0].mean()
    assert removal.sigmas()["transformer.ln_f"].first == pytest.approx(float(expected), rel=1e-12)


def test_a_forward_that_failed_does_not_stop_later_ones_from_counting(ids: Tensor) -> None:
    model, removal = attached()
    with pytest.raises(IndexError):
        model(input_ids=ids + 1000)
    step(model, ids)
    removal.tick()
    expected = true_sigmas(ids)["transformer.ln_f"][:, 0].mean()
    assert removal.sigmas()["transformer.ln_f"].first == pytest.approx(float(expected), rel=1e-12)


def test_observe_sets_the_mean_over_batches_without_training(ids: Tensor) -> None:
    model, removal = attached()
    step(model, ids)
    removal.tick()
    model.zero_grad()
    batches = [token_ids(10, seed=1), token_ids(6, batch=4, seed=2)]
    removal.observe({"input_ids": batch} for batch in batches)
    pooled = torch.cat([true_sigmas(batch)[PATH][:, 1:].flatten() for batch in batches])
    assert removal.sigmas()[PATH].ordinary == pytest.approx(float(pooled.mean()), rel=1e-12)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_removed_path_keeps_its_sigma_and_shows_its_drift(ids: Tensor) -> None:
    model, removal = attached()
    step(model, ids)
    removal.tick()
    before = removal.sigmas()[PATH]
    removal.remove([PATH])
    assert removal.drift()[PATH] == pytest.approx(1.0)
    with torch.no_grad():
        for parameter in (model.transformer.wte.weight, model.transformer.wpe.weight):
            parameter.mul_(3)
    step(model, ids)
    removal.tick()
    after = removal.sigmas()
    assert (after[PATH].ordinary, after[PATH].first) == (before.ordinary, before.first)
    assert list(removal.drift()) == [PATH]
    assert removal.drift()[PATH] > 1.05
    assert after["transformer.h.0.ln_1:qk"].ordinary > before.ordinary * 0.1
    assert not after["transformer.h.0.ln_1:qk"].removed


def test_state_is_exact_json(ids: Tensor) -> None:
    model, removal = attached()
    other_model, other = attached()
    for one, control in ((model, removal), (other_model, other)):
        step(one, ids)
        control.tick()
        control.remove([PATH], 0.3)
        control.merge("end", 0.7)
    text = json.dumps(removal.state())
    resumed_model, resumed = attached()
    resumed.restore(json.loads(text))
    for one, control in ((other_model, other), (resumed_model, resumed)):
        step(one, ids[:, :6])
        control.tick()
        control.remove(["transformer.h.0.ln_1:qk"])
    assert resumed.state() == other.state()
    assert resumed.sigmas() == other.sigmas()
    given = {"input_ids": token_ids(seed=9)}
    assert torch.equal(resumed_model(**given).logits, other_model(**given).logits)


def test_a_state_of_other_paths() -> None:
    _, removal = attached()
    state = removal.state()
    del state["paths"][PATH]
    with pytest.raises(UsageError, match=f"other paths: {PATH}"):
        removal.restore(state)


def test_restore_forgets_what_was_not_ticked(ids: Tensor) -> None:
    model, removal = attached()
    step(model, ids)
    removal.tick()
    state = removal.state()
    step(model, ids[:, :4])
    removal.restore(state)
    step(model, ids)
    removal.tick()
    assert removal.sigmas()[PATH].ordinary == pytest.approx(
        state["paths"][PATH]["ordinary"], rel=1e-12
    )


def test_stream_loss(ids: Tensor) -> None:
    model, removal = attached()
    assert removal.stream_loss() is None
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    for merged in ((), ("end",), ("end", "first")):
        for which in merged:
            removal.merge(which)  # type: ignore[arg-type]
        model(input_ids=ids, attention_mask=mask)
        loss = removal.stream_loss()
        assert loss is not None
        captured: list[Tensor] = []

        def spread(path: str, x: Tensor, captured: list[Tensor] = captured) -> Tensor:
            sigma = naive.true_sigma(path, x)
            if path == "transformer.ln_f":
                captured.append(sigma[..., 0])
            return sigma

        naive.gpt2(model, ids, spread)
        wanted = mask.bool()
        if "end" not in merged:
            wanted = wanted & (ids != END)
        if "first" not in merged:
            wanted[:, 0] = False
        else:
            wanted[:, 0] = True
        sigma = captured[0][wanted]
        expected = (sigma - sigma.mean().detach()).square().mean()
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
        weight = model.transformer.wte.weight
        ours = torch.autograd.grad(loss, weight)[0]
        torch.testing.assert_close(
            ours, torch.autograd.grad(expected, weight)[0], rtol=1e-9, atol=1e-12
        )


@pytest.mark.slow
def test_two_processes_share_one_average(tmp_path: Path) -> None:
    spawn(share, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    found = [json.loads((tmp_path / f"out.{rank}").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    alone = [Sums(), Sums()]
    for rank in range(2):
        measure(alone, rank)
    expected = [{str(kind): mean for kind, mean in one.items()} for one in means(alone)]
    assert found[0] == [pytest.approx(one, rel=1e-14) for one in expected]
    assert all(one.total is None for one in alone)
