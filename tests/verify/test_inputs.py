"""What models are run on: padding, positions, labels, text."""

from __future__ import annotations

import json

import pytest
import torch

from normsurgery.errors import UsageError
from normsurgery.verify.inputs import IGNORED, Plan, plan_inputs
from normsurgery.verify.load import load_model
from normsurgery.verify.sources import ModelSource
from normsurgery.verify.text import TokenStream, read_text


@pytest.fixture
def planned(tmp_path):
    def plan(directory, **options) -> Plan:
        wanted = {"data": None, "tokens": 200, "max_length": 32, "seed": 0, **options}
        cpu = torch.device("cpu")
        source = ModelSource(directory)
        with load_model(source, dtype=torch.float32, device=cpu, scratch=tmp_path) as loaded:
            return plan_inputs(loaded.model, directory, **wanted)

    return plan


def test_causal_rows_are_left_padded_with_positions_that_skip_the_pads(planned, tiny):
    plan = planned(tiny("gpt2"))
    batch = plan.batches[0]
    assert batch.mask is not None
    assert batch.labels is not None
    assert bool(batch.mask[:, -1].all())
    assert not bool(batch.mask[:, 0].all())
    short = batch.mask.sum(1).argmin()
    pads = int((~batch.mask[short]).sum())
    assert batch.inputs["position_ids"][short, pads:].tolist() == list(range(32 - pads))
    assert batch.inputs["attention_mask"].sum() == batch.mask.sum()
    ids, labels = batch.inputs["input_ids"][short], batch.labels[short]
    assert labels[pads:-1].tolist() == ids[pads + 1 :].tolist()
    assert labels[:pads].eq(IGNORED).all()
    assert labels[-1] == IGNORED
    assert batch.first is not None
    assert batch.first.sum() == len(ids.new_empty(len(batch.mask)))
    assert bool(batch.first[short, pads])


def test_rows_add_up_to_the_tokens_asked_for(planned, tiny):
    plan = planned(tiny("gpt2"), tokens=300)
    assert 300 <= sum(batch.positions for batch in plan.batches) < 332


def test_bidirectional_models_are_right_padded(planned, tiny):
    batch = planned(tiny("esm")).batches[0]
    assert batch.mask is not None
    assert bool(batch.mask[:, 0].all())
    assert not bool(batch.mask[:, -1].all())


def test_rows_are_no_longer_than_the_model_takes(planned, tiny):
    plan = planned(tiny("gpt2"), max_length=500)
    assert plan.batches[0].inputs["input_ids"].shape[1] == 64


def test_no_padding_gives_equal_rows(planned, tiny):
    plan = planned(tiny("gpt2"), padding="none")
    assert all(batch.mask is not None and bool(batch.mask.all()) for batch in plan.batches)
    assert plan.prompts is not None
    assert plan.prompts.mask is not None
    assert bool(plan.prompts.mask.all())


def test_whisper_gets_features_and_a_shifted_decoder_row(planned, tiny):
    batch = planned(tiny("whisper")).batches[0]
    assert batch.labels is not None
    assert batch.encoder_mask is None
    assert batch.inputs["input_features"].shape[1:] == (80, 40)
    decoder = batch.inputs["decoder_input_ids"]
    assert decoder[:, 0].eq(3).all()
    real = batch.labels[:, :-1] != IGNORED
    assert torch.equal(decoder[:, 1:][real], batch.labels[:, :-1][real])


def test_two_text_stacks_have_a_mask_each(planned, tiny):
    batch = planned(tiny("bart")).batches[0]
    assert batch.encoder_mask is not None
    assert torch.equal(batch.encoder_mask, batch.inputs["attention_mask"].bool())
    assert torch.equal(batch.mask.long(), batch.inputs["decoder_attention_mask"])


@pytest.mark.parametrize(("family", "names"), [
    ("vit", {"pixel_values"}),
    ("clip", {"pixel_values", "input_ids", "attention_mask"}),
])  # fmt: skip
def test_images_come_with_what_the_model_takes(planned, tiny, family, names):
    batch = planned(tiny(family)).batches[0]
    assert names <= set(batch.inputs)
    assert batch.inputs["pixel_values"].shape[1:] == (3, 32, 32)


def test_text_goes_through_the_model_own_tokenizer(planned, trained, tiny):
    plan = planned(trained)
    assert plan.kind == "text"
    from transformers import AutoTokenizer

    row = plan.batches[0].inputs["input_ids"][0]
    text = AutoTokenizer.from_pretrained(trained).decode(row)
    assert text in read_text(None, characters=0)
    assert planned(tiny("gpt2")).kind == "random"


def test_the_same_seed_gives_the_same_inputs(planned, tiny):
    first, again, other = (planned(tiny("vit"), seed=seed) for seed in (3, 3, 4))
    pixels = [plan.batches[0].inputs["pixel_values"] for plan in (first, again, other)]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])


def test_own_text_is_used(planned, trained, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"line number {i} of mine"}) for i in range(90)))
    ids = planned(trained, data=path).batches[0].inputs["input_ids"][0]
    from transformers import AutoTokenizer

    assert "of mine\n\nline number" in AutoTokenizer.from_pretrained(trained).decode(ids)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'{"no": "text"}'])
def test_data_that_is_not_text_is_a_usage_error(tmp_path, content):
    path = tmp_path / ("data.jsonl" if content.startswith(b"{") else "data.txt")
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.(txt|jsonl)"):
        read_text(path, characters=100)


def test_absent_data_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.txt"):
        read_text(tmp_path / "absent.txt", characters=100)


def test_rows_carry_the_tokenizer_own_ends():
    stream = TokenStream((5, 6, 7, 8, 9), prefix=(1,), suffix=(2,))
    assert list(stream.rows([4, 5, 4])) == [[1, 5, 6, 2], [1, 7, 8, 9, 2]]
