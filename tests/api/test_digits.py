"""Trained image classifiers keep what they know: every fold on scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.load import load_graft_class
from tests.digits import CLASSIFIERS, accuracy, digits, logits_of, save_folders


def answers(name: str, directory: Path, dtype: torch.dtype, *, graft: bool = False) -> Any:
    """Logits [360, 10] of a saved classifier on the held-out digits, in float32."""
    stock: Any = getattr(transformers, CLASSIFIERS[name][0])
    opened: Any = stock
    if graft:
        opened = load_graft_class(directory, "modeling_foldedbn.py", stock.__name__)
    with quiet():
        model = opened.from_pretrained(directory, dtype=dtype).eval()
    return logits_of(model, digits()[2], dtype).float()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    _, _, pixels, labels = digits()
    return save_folders(tmp_path_factory.mktemp("pictures"), pixels[:60], labels[:60])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_classifiers_have_learned_their_digits(classifier, name):
    assert accuracy(answers(name, classifier(name), torch.float32), digits()[3]) > 0.9


@pytest.mark.parametrize("form", ["keep", "graft"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_fold_bn_keeps_every_prediction(classifier, tmp_path, name, form):
    source = classifier(name)
    document = normsurgery.fold_bn(source, tmp_path / "out", form=form, verify=False).document
    assert document["batch_norms"]["left"] == 0
    before, narrow = (answers(name, source, dtype) for dtype in (torch.float32, torch.bfloat16))
    after, narrow_after = (
        answers(name, tmp_path / "out", dtype, graft=form == "graft")
        for dtype in (torch.float32, torch.bfloat16)
    )
    labels = digits()[3]
    assert accuracy(after, labels) == accuracy(before, labels)
    assert torch.equal(after.argmax(-1), before.argmax(-1))
    assert (after - before).abs().max() < 1e-5 * before.std()
    # In bfloat16 the source itself cannot tell answers apart that are as close as its own error.
    best = before.topk(2).values
    decided = best[:, 0] - best[:, 1] > 2 * (narrow - before).abs().max()
    same = narrow_after.argmax(-1) == narrow.argmax(-1)
    assert decided.double().mean() > 0.9
    assert bool(same[decided].all())
    assert same.double().mean() > 0.99


def test_fold_bn_is_verified_on_the_user_s_own_images(classifier, pictures, tmp_path):
    document = normsurgery.fold_bn(classifier("resnet"), tmp_path / "out", data=pictures).document
    figures = document["verification"]["stock"]
    assert figures["verdict"] == "pass"
    assert figures["tokens"] == 60
    assert figures["top1"] == 1
    loss = figures["loss"]
    expected = answers("resnet", classifier("resnet"), torch.float32)[:60]
    labels = torch.from_numpy(digits()[3][:60])
    truth = float(torch.nn.functional.cross_entropy(expected, labels))
    assert loss["reference"]["mean"] == pytest.approx(truth, rel=1e-4)
    assert loss["candidate"]["mean"] == pytest.approx(truth, rel=1e-4)


def test_a_vit_has_no_batch_norm_to_fold(classifier, tmp_path):
    with pytest.raises(UnsupportedModelError, match="no BatchNorm"):
        normsurgery.fold_bn(classifier("vit"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("surgery", ["fold", "convert"])
def test_a_vit_keeps_every_prediction(classifier, tmp_path, surgery):
    source, out = classifier("vit"), tmp_path / "out"
    if surgery == "fold":
        done: Any = normsurgery.fold(source, out, what="norm,value-bias,key-bias", verify=False)
        assert {one["name"] for one in done.document["folds"] if one["applies"]} == {
            "norm", "value-bias", "key-bias",
        }  # fmt: skip
    else:
        normsurgery.convert(source, out, verify=False)
    before, after = (answers("vit", place, torch.float32) for place in (source, out))
    assert not torch.equal(after, before)  # its weights are others
    assert torch.equal(after.argmax(-1), before.argmax(-1))
    assert accuracy(after, digits()[3]) == accuracy(before, digits()[3])
