"""A checkpoint with two ways in keeps the one that trained."""

import pytest
import transformers

import normsurgery
from normsurgery.anatomy.examine import examine
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.doors import one_door


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """A GPT-2 that opens in its stock class and as RMSNorm."""
    out = tmp_path_factory.mktemp("doors") / "dual"
    normsurgery.convert(tiny("gpt2"), out, verify=False)
    return open_checkpoint(out)


@pytest.fixture(scope="module")
def grafted(tiny, tmp_path_factory):
    """A GPT-2 that opens with its modeling file only."""
    out = tmp_path_factory.mktemp("doors") / "graft"
    normsurgery.convert(tiny("gpt2"), out, target="graft", verify=False)
    return open_checkpoint(out)


def test_a_plain_checkpoint_is_left_as_it_is(tiny):
    source = open_checkpoint(tiny("gpt2"))
    assert one_door(source, transformers.GPT2LMHeadModel) == (source, ())


def test_trained_in_the_stock_class_it_loses_the_other(converted):
    result, notes = one_door(converted, transformers.GPT2LMHeadModel)
    assert "auto_map" in converted.config and "auto_map" not in result.config
    assert "modeling_rmsnorm.py" in converted.side_files
    assert "modeling_rmsnorm.py" not in result.side_files
    assert "modeling_rmsnorm.py is left out" in notes[0]


def test_trained_as_the_other_it_is_refused(converted):
    own = examine(converted, trust_remote_code=True).model_class
    with pytest.raises(UnsupportedModelError, match="opens in two classes") as raised:
        one_door(converted, own)
    assert "leave --trust-remote-code out" in raised.value.hint


def test_a_checkpoint_that_only_its_own_class_opens_keeps_it(grafted):
    own = examine(grafted, trust_remote_code=True).model_class
    assert one_door(grafted, own) == (grafted, ())
