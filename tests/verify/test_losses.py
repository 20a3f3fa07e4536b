"""Losses and samples of real small models: against transformers' own loss and generation."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.verify.losses import (
    Measured,
    greedy_samples,
    loss_quantiles,
    loss_table,
    loss_tables,
    measure,
    model_losses,
    prompts_from,
    side_by_side,
)
from normsurgery.verify.sources import ModelSource
from tests.verify.helpers import edited, find

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(trained):
    return AutoModelForCausalLM.from_pretrained(trained).eval()


@pytest.fixture(scope="module")
def rows(trained):
    return load_rows(trained, data="sample:drama", tokens=500, max_length=50)


def test_the_mean_is_the_loss_that_transformers_reports(model, rows):
    losses = model_losses(model, rows, device=CPU)
    with torch.no_grad():
        expected = model(input_ids=rows.ids, labels=rows.ids).loss
    assert losses.dtype is torch.float64
    assert len(losses) == 10 * 49
    assert float(losses.mean()) == pytest.approx(float(expected), rel=1e-5)


def test_losses_stand_row_by_row_and_pads_and_batches_change_nothing(model, rows):
    lengths = [50, 3, 1, 20, 2]
    uneven = TextRows.of([rows.ids[i, :n].tolist() for i, n in enumerate(lengths)], pad_id=7)
    single = [
        model_losses(model, TextRows.of([rows.ids[i, :n].tolist()]), device=CPU)
        for i, n in enumerate(lengths)
    ]
    assert [len(one) for one in single] == [n - 1 for n in lengths]
    for size in (1, 2, 5):
        together = model_losses(model, uneven, device=CPU, batch_rows=size)
        torch.testing.assert_close(together, torch.cat(single), rtol=0, atol=1e-5)


def test_large_logits_are_taken_in_smaller_batches(model, rows, monkeypatch):
    from normsurgery.verify import losses

    expected = model_losses(model, rows, device=CPU)
    widths: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(len(inputs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(losses, "_BATCH_BYTES", 2 * 50 * 1024 * 4)
    found = model_losses(model, rows, device=CPU)
    handle.remove()
    assert widths == [2] * 5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_encoder_decoder_is_refused_with_the_reason(tiny, rows):
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny("bart"))
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        model_losses(model, rows, device=CPU)


def test_quantiles_are_nearest_rank_and_the_perplexity_is_exp_of_the_mean():
    figures = loss_quantiles(torch.arange(1.0, 1001.0).flip(0) / 1000)
    assert figures == {
        "mean": pytest.approx(0.5005),
        "median": pytest.approx(0.5),
        "p999": pytest.approx(0.999),
        "max": 1.0,
        "tokens": 1000,
        "perplexity": pytest.approx(math.exp(0.5005)),
    }
    with pytest.raises(ValueError, match="no losses"):
        loss_quantiles(torch.empty(0))
    assert loss_quantiles(torch.tensor([5000.0]))["perplexity"] < math.inf


def test_a_table_holds_models_of_the_same_tokens_only(rows):
    table = loss_table(rows, {"original": torch.ones(4), "result": torch.full((4,), 2.0)})
    assert table["source"] == rows.about
    assert table["result"]["mean"] == 2.0 and table["original"]["perplexity"] == math.e
    with pytest.raises(ValueError, match="other tokens"):
        loss_table(rows, {"original": torch.ones(4), "result": torch.ones(5)})


def test_samples_are_what_generate_gives_and_stop_at_the_end_token(model, trained, rows):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    prompts = prompts_from(rows, count=2, tokens=12)
    assert prompts.ids.shape == (2, 12) and bool(prompts.mask.all())
    texts = greedy_samples(model, tokenizer, prompts, device=CPU, new_tokens=9)
    with torch.no_grad():
        expected = model.generate(
            prompts.ids,
            attention_mask=prompts.mask.long(),
            max_new_tokens=9,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, 12:]
    assert texts == tokenizer.batch_decode(expected)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(expected[0, 4]))
    cut = greedy_samples(model, tokenizer, prompts, device=CPU, new_tokens=9)[0]
    assert expected[0, 4] not in expected[0, :4] and cut == tokenizer.decode(expected[0, :4])


def test_samples_end_where_the_positions_end(model, trained, rows):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    positions = model.config.max_position_embeddings
    long = load_rows(trained, data=None, tokens=2 * positions, max_length=positions)
    prompts = prompts_from(long, count=1, tokens=positions)
    assert prompts.ids.shape == (1, positions // 2)
    (text,) = greedy_samples(model, tokenizer, prompts, device=CPU, new_tokens=10 * positions)
    assert 0 < len(tokenizer(text)["input_ids"]) <= positions


def test_prompts_are_spread_over_rows_that_are_long_enough():
    rows = TextRows.of([[i] * (4 if i in (2, 5) else 12) for i in range(12)])
    assert prompts_from(rows, count=3, tokens=5).ids[:, 0].tolist() == [0, 4, 8]
    assert prompts_from(rows, count=99, tokens=5).ids.shape == (10, 5)
    with pytest.raises(UsageError, match="too short"):
        prompts_from(TextRows.of([[1, 2, 3]]))


def test_measured_models_stand_side_by_side_by_domain(trained, tmp_path, rows):
    def spoil(tensors):
        name = find(tensors, "h.3.mlp.c_proj.weight")
        tensors[name] = tensors[name] * 3

    worse = edited(trained, tmp_path / "worse", spoil)
    domains = {"drama": rows, "prose": load_rows(trained, data=None, tokens=200, max_length=50)}
    prompts = prompts_from(rows, count=2, tokens=10)
    measured = {
        name: measure(
            ModelSource(directory),
            domains,
            dtype=torch.float32,
            device=CPU,
            scratch=tmp_path,
            prompts=prompts if name != "drop" else None,
            new_tokens=8,
        )
        for name, directory in {"original": trained, "drop": worse, "result": worse}.items()
    }
    tables = loss_tables(domains, measured)
    assert list(tables) == ["drama", "prose"]
    assert tables["prose"]["source"]["source"] == "sample:prose"
    assert tables["drama"]["original"]["mean"] < tables["drama"]["result"]["mean"]
    assert tables["drama"]["drop"] == tables["drama"]["result"]
    assert tables["prose"]["original"]["tokens"] == 4 * 49
    assert measured["original"].report.clean
    tokenizer = AutoTokenizer.from_pretrained(trained)
    samples = side_by_side(tokenizer, prompts, measured)
    assert [set(sample) for sample in samples] == [{"prompt", "original", "result"}] * 2
    assert samples[0]["prompt"] == tokenizer.decode(rows.ids[0, :10])
    assert samples[0]["original"] == measured["original"].continued[0]


def test_a_model_without_samples_has_no_column(trained, rows):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    prompts = prompts_from(rows, count=1, tokens=4)
    (sample,) = side_by_side(
        tokenizer, prompts, {"original": Measured({}, ["x"]), "drop": Measured({})}
    )
    assert sample == {"prompt": tokenizer.decode(prompts.ids[0]), "original": "x"}
