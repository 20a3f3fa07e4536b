"""The options of `remove-ln`: which fit together, and how they are written down again."""

import pytest

from normsurgery.api.removal.request import RemovalRequest
from normsurgery.errors import UsageError


def test_sites_are_words_in_their_order_without_doubles():
    assert RemovalRequest.words(" final,mlp,mlp") == ("mlp", "final")
    assert RemovalRequest.words(["inner", "attention"]) == ("attention", "inner")


@pytest.mark.parametrize("sites", ["", "mlp,heads", [], "all"])
def test_other_words_are_refused(sites):
    with pytest.raises(UsageError, match="names no norms"):
        RemovalRequest.words(sites)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"finetune": True, "one_shot": True}, "two ways"),
        ({"resume": True}, "none was asked for"),
        ({"resume": True, "one_shot": True}, "none was asked for"),
        ({"sites": ("mlp",)}, "leaves out attention, final"),
        ({"sites": ("mlp", "final", "inner"), "export": "stock"}, "leaves out attention"),
        ({"export": "native"}, "--export native: no such choice"),
        ({"report_to": "wandb"}, "--report-to wandb"),
        ({"teacher": "me"}, "--teacher me"),
        ({"teacher": "control", "control": False}, "needs the control"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"gradient_accumulation": 0}, "--gradient-accumulation 0"),
        ({"save_every": 0}, "--save-every 0"),
        ({"tokens": 1}, "--tokens 1"),
        ({"lr": 2.0}, "a learning rate of 2.0"),
        ({"lr": 0.0}, "a learning rate of 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(UsageError, match=said) as raised:
        RemovalRequest(**options)
    assert raised.value.hint


def test_fewer_sites_are_for_a_partial_export():
    assert RemovalRequest(sites=("mlp",), export="partial").sites == ("mlp",)


def test_the_step_has_what_decides_the_result_and_no_path(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words")
    request = RemovalRequest(
        finetune=True, data=str(text), lr=1e-3, device="cpu", save_every=3, control=False
    )
    assert request.step() == {
        "surgery": "remove_ln", "finetune": True, "data": "text.txt", "control": False, "lr": 1e-3,
    }  # fmt: skip


def test_the_command_line_makes_the_same_request():
    request = RemovalRequest(
        finetune=True, sites=("mlp",), export="partial", control=False, tokens=9, schedule="gpt2"
    )
    assert request.command("my model") == (
        "normsurgery remove-ln 'my model' -o OUT --finetune --sites mlp --tokens 9 "
        "--schedule gpt2 --export partial --no-control"
    )


@pytest.mark.parametrize(("options", "contract"), [({"one_shot": True}, "lossy"), ({}, "trained")])
def test_only_training_is_trained(options, contract):
    assert RemovalRequest(**options).contract == contract
