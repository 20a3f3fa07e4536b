"""How much the loss rises when one path alone is frozen."""

import torch

from normsurgery.anatomy.norm_paths import read_paths
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.train.norms.attach import attach
from normsurgery.train.removal.sensitivity import measure_sensitivity
from normsurgery.train.removal.trainer import batches
from tests.train.tools import rows, subject


def attached(directory):
    one = subject(directory)
    model = one.load(torch.float32)
    removal = attach(model, read_paths(one.examination, model))
    removal.observe(batches(rows(), 6, 2))
    return removal


def test_a_path_whose_sigma_is_wrong_is_the_most_sensitive(trained):
    removal = attached(trained)
    text = written_by(removal.model)
    plain = measure_sensitivity(removal, text, count=4, batch_size=2)
    assert list(plain) == [path.name for path in removal.paths]
    broken = "transformer.h.1.ln_2"
    state = removal.state()
    state["paths"][broken]["ordinary"] *= 1e-2
    removal.restore(state)
    found = measure_sensitivity(removal, text, count=4, batch_size=2)
    assert max(found, key=found.__getitem__) == broken and found[broken] > plain[broken] + 1
    assert all(found[name] == plain[name] for name in found if name != broken)


def written_by(model):
    """Rows that the model itself finds likely."""
    starts = torch.arange(10, 50, 10).view(4, 1)
    made = model.generate(starts, max_new_tokens=24, do_sample=False, pad_token_id=0)
    return TextRows.of(made.tolist(), source="greedy")


def test_it_leaves_everything_as_it_was(tiny):
    removal = attached(tiny("llama"))
    before = removal.state()
    measure_sensitivity(removal, rows(), count=4, batch_size=2)
    assert removal.state() == before and not removal.done


def test_batches_are_the_first_rows_cut_to_their_own_length():
    found = list(batches(rows(12, 16), 5, 2))
    assert [tuple(one["input_ids"].shape) for one in found] == [(2, 16), (2, 16), (1, 16)]
    assert all(set(one) == {"input_ids", "attention_mask"} for one in found)
