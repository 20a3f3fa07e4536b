"""Scores of windows against their definitions, computed from the model's own hidden states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.distributed import Processes
from normsurgery.calibrate.scoring.sample import last_tokens, scored_sample
from normsurgery.calibrate.scoring.scores import ScoreOptions, iterative_choice, score_windows
from normsurgery.calibrate.scoring.windows import Scores
from normsurgery.errors import UsageError
from tests.calibrate.language_models import LANGUAGE_MODELS, text_rows
from tests.calibrate.test_blockwise import opened, own_model
from tests.families import build_spec

LENGTHS = (30, 22, 30, 14, 30, 30)


class Own:
    """A model's own hidden states at the scored tokens, row after row: [tokens, d] per place."""

    def __init__(self, directory: Path, engine: Blockwise) -> None:
        self.model = own_model(directory)
        self.engine = engine

    def streams(self) -> list[Tensor]:
        found: list[list[Tensor]] = [[] for _ in range(len(self.engine.blocks) + 1)]
        layers = self.model.model.layers
        last: list[Tensor] = []
        hook = layers[-1].register_forward_hook(lambda m, a, out: last.append(out))
        for ids in self.rows():
            with torch.no_grad():
                states = self.model(input_ids=ids, output_hidden_states=True).hidden_states
            for place, state in enumerate([*states[:-1], last.pop()]):
                found[place].append(state[0, 1:])
        hook.remove()
        return [torch.cat(rows) for rows in found]

    def mlps(self) -> list[Tensor]:
        found: list[list[Tensor]] = [[] for _ in self.engine.blocks]
        hooks = [
            layer.mlp.register_forward_hook(lambda m, a, out, to=to: to.append(out[0, 1:]))
            for layer, to in zip(self.model.model.layers, found, strict=True)
        ]
        for ids in self.rows():
            with torch.no_grad():
                self.model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        return [torch.cat(rows) for rows in found]

    def rows(self) -> Any:
        for batch in self.engine.batches:
            for ids, mask in zip(batch.ids, batch.mask, strict=True):
                yield ids[mask][None]

    def loss(self, without: tuple[int, ...] = ()) -> float:
        layers = self.model.model.layers
        for block in without:
            layers[block].forward = lambda hidden_states, *args, **kwargs: hidden_states
        losses = []
        for ids in self.rows():
            with torch.no_grad():
                logits = self.model(input_ids=ids).logits[0]
            losses.append(
                torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
            )
        for block in without:
            del layers[block].forward
        return float(torch.cat(losses).mean())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    build_spec(LANGUAGE_MODELS["llama"], directory)
    return directory


def scored(directory: Path, size: int, *methods: str, **options: Any) -> tuple[Scores, Own]:
    engine = opened(directory, *LENGTHS, memory_limit=options.pop("memory_limit", None))
    scores = score_windows(engine, size, methods, options=ScoreOptions(**options))
    return scores, Own(directory, engine)


def column(scores: Scores, method: str) -> list[Any]:
    return [window.scores[method] for window in scores.windows]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_angular_and_influence_are_their_definitions(llama: Path, size: int) -> None:
    scores, own = scored(llama, size, "angular", "influence")
    x = own.streams()

    def cosine(first: int, second: int) -> Tensor:
        return torch.nn.functional.cosine_similarity(x[first], x[second], dim=-1)

    starts = range(5 - size)
    angles = [float(cosine(s, s + size).arccos().mean()) / math.pi for s in starts]
    assert column(scores, "angular") == pytest.approx(angles, rel=1e-5)
    steps = [1 - float(cosine(at, at + 1).mean()) for at in range(4)]
    assert column(scores, "influence") == pytest.approx(
        [sum(steps[s : s + size]) for s in starts], rel=1e-5
    )
    assert [window.blocks for window in scores.windows] == [
        tuple(range(s, s + size)) for s in starts
    ]


def test_the_last_token_variant_looks_at_each_rows_last(llama: Path) -> None:
    scores, own = scored(llama, 2, "angular", last_token=True)
    x = own.streams()
    ends = torch.tensor([n - 1 for n in LENGTHS]).cumsum(0) - 1
    for start, angle in enumerate(column(scores, "angular")):
        cosines = torch.nn.functional.cosine_similarity(x[start][ends], x[start + 2][ends], dim=-1)
        assert angle == pytest.approx(float(cosines.arccos().mean()) / math.pi, rel=1e-5)


def test_fit_is_what_the_best_map_of_the_mlp_output_leaves(llama: Path) -> None:
    ridge = 1e-3
    scores, own = scored(llama, 2, "fit", ridge=ridge)
    x, m = own.streams(), own.mlps()
    assert column(scores, "fit")[0] is None
    for start in (1, 2):
        lengths = x[start + 2].norm(dim=-1, keepdim=True)
        made = m[start - 1] / lengths
        target = (x[start + 2] - (x[start] - m[start - 1])) / lengths
        # ridge as rows that are appended: another way than the normal equations
        weight = math.sqrt(ridge * float(made.square().sum()) / made.shape[1])
        eye = weight * torch.eye(made.shape[1], dtype=made.dtype)
        best = torch.linalg.lstsq(
            torch.cat([made, eye]), torch.cat([target, torch.zeros_like(eye)])
        ).solution
        values = torch.linalg.svdvals(made).square()
        freedom = float((values / (values + weight**2)).sum())
        left = float((target - made @ best).square().sum()) / (len(made) - freedom)
        assert scores.windows[start].scores["fit"] == pytest.approx(left, rel=1e-4)


def test_a_block_that_adds_nothing_leaves_nothing_unexplained(tmp_path: Path) -> None:
    model = build_spec(LANGUAGE_MODELS["llama"], tmp_path)
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.model.layers[2].get_submodule(name).weight.zero_()
    model.save_pretrained(tmp_path)
    scores, _ = scored(tmp_path, 1, "fit")
    fits = column(scores, "fit")
    assert fits[2] == pytest.approx(0.0, abs=1e-3)
    assert min(fits[1], fits[3]) > 0.01
    assert scores.best("fit") == (2,)


def test_loss_is_that_of_the_model_without_the_window(llama: Path) -> None:
    scores, own = scored(llama, 2, "loss")
    wanted = [own.loss(window.blocks) for window in scores.windows]
    assert column(scores, "loss") == pytest.approx(wanted, rel=1e-6)
    assert scores.loss == pytest.approx(own.loss(), rel=1e-6)


def test_taylor_is_gradient_times_weight(llama: Path) -> None:
    scores, own = scored(llama, 1, "taylor")
    own.model.requires_grad_()
    tokens = sum(LENGTHS) - len(LENGTHS)
    for ids in own.rows():
        logits = own.model(input_ids=ids).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum") / tokens
        loss.backward()
    wanted = [
        sum(float((w.grad * w.detach()).abs().sum()) for w in layer.parameters())
        for layer in own.model.model.layers
    ]
    assert column(scores, "taylor") == pytest.approx(wanted, rel=1e-5)


def test_states_in_files_give_the_same_scores(llama: Path, tmp_path: Path) -> None:
    methods = ("angular", "influence", "fit", "loss", "taylor")
    found = []
    for directory, limit in ((None, None), (tmp_path, 0)):
        engine = opened(llama, *LENGTHS, directory=directory, memory_limit=limit)
        found.append(score_windows(engine, 2, methods).to_list())
    assert found[0] == found[1]
    assert list(tmp_path.iterdir()) == []


def test_pads_and_first_positions_count_for_nothing(llama: Path) -> None:
    """Other ids under the pads change no score."""
    methods = ("angular", "influence", "fit", "loss")
    engine = opened(llama, *LENGTHS)
    scores = score_windows(engine, 2, methods)
    for batch in engine.batches:
        batch.ids[~batch.mask] = 77
    again = score_windows(engine, 2, methods)
    for first, second in zip(scores.windows, again.windows, strict=True):
        known = {method: score for method, score in first.scores.items() if score is not None}
        assert known == pytest.approx({m: second.scores[m] for m in known}, rel=1e-9)
    sample = scored_sample(engine.batches, Processes())
    assert sample.tokens == sum(LENGTHS) - len(LENGTHS)
    for batch, places in zip(engine.batches, sample.places, strict=True):
        assert torch.equal(places, batch.scored.flatten().nonzero()[:, 0])


def test_a_sample_is_the_same_however_many_share_it() -> None:
    batches = text_rows(9, 7, 9, 3, 9).batches(2)
    alone = scored_sample(batches, Processes(), 12)
    shared = [scored_sample(batches, Processes(rank, 2), 12) for rank in (0, 1)]
    assert alone.tokens == shared[0].tokens == sum(len(places) for places in alone.places) == 12
    for index, places in enumerate(alone.places):
        assert torch.equal(places, shared[index % 2].places[index // 2])
    assert last_tokens(batches, Processes()).places[1].tolist() == [8, 11]


def test_last_prefers_the_end(llama: Path) -> None:
    scores, _ = scored(llama, 2, "last")
    assert scores.best("last") == (2, 3)
    assert scores.to_list()[0] == {"blocks": [0, 1], "last": 2.0}


def test_the_iterative_choice_measures_again(llama: Path) -> None:
    engine = opened(llama, *LENGTHS)
    choice = iterative_choice(engine, 2, "loss", ("influence",))
    own = Own(llama, engine)
    first = min(range(4), key=lambda block: own.loss((block,)))
    second = min(set(range(4)) - {first}, key=lambda block: own.loss((first, block)))
    assert choice.dropped == (first, second)
    assert [len(scores.windows) for scores in choice.rounds] == [4, 3]
    assert set(choice.rounds[1].windows[0].scores) == {"loss", "influence"}
    assert choice.rounds[1].loss == pytest.approx(own.loss((first,)), rel=1e-6)


@pytest.mark.parametrize(("size", "method"), [(0, "angular"), (4, "angular"), (2, "magic")])
def test_an_impossible_request_is_refused(llama: Path, size: int, method: str) -> None:
    with pytest.raises(UsageError):
        scored(llama, size, method)


def test_a_method_that_was_not_computed_has_no_best(llama: Path) -> None:
    scores, _ = scored(llama, 2, "influence")
    with pytest.raises(UsageError, match="no fit score"):
        scores.best("fit")


def test_too_few_tokens_for_a_fit_are_an_error(llama: Path) -> None:
    with pytest.raises(UsageError, match="40 tokens cannot determine a fit of 48"):
        scored(llama, 2, "fit", sample=40)
    scores, _ = scored(llama, 2, "fit", sample=100)
    assert "2.1 each" in scores.notes[0]


@pytest.mark.parametrize("family", ["gpt_neox", "falcon_new", "gemma2", "granite", "qwen3_moe"])
def test_the_seam_is_what_the_mlp_adds(family: str, tmp_path: Path) -> None:
    """With its MLP's output taken away, a block returns what the seam leaves."""
    build_spec(LANGUAGE_MODELS[family], tmp_path)
    engine = opened(tmp_path, 12, 12)
    from normsurgery.anatomy.block_writers import block_writers
    from normsurgery.calibrate.scoring.seams import read_seams

    stack = engine.stack
    writers = block_writers(engine.examination, stack)
    seam = read_seams(engine.examination, stack.blocks, engine.forms, writers)[1]
    assert seam is not None
    made: list[Tensor] = []
    x = torch.randn(2, 12, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with engine.loaded(1) as block:
        with seam.seen(block, lambda value: made.append(value.clone() * seam.factor)):
            whole = engine.run(block, 1, 0, engine.embedded()[0] * 0 + x)
        for name, value in writers[1][-1].silence.items():
            block.get_parameter(name).fill_(value)
        without = engine.run(block, 1, 0, x)
    torch.testing.assert_close((whole - without).flatten(0, 1), made[0], rtol=1e-5, atol=1e-5)
