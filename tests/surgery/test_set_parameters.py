"""Other values in a checkpoint's own names, layout and dtype."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.runtime import quiet
from normsurgery.checkpoint import LazyTensor, open_checkpoint, write_weights
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.set_parameters import set_parameters


def loaded(directory, dtype=torch.float32):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)


def put(source, state, changed):
    names = examine(source).names
    return set_parameters(
        source, names, state, changed, surgery="train", contract="trained", parameters={"steps": 3}
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "phimoe", "falcon_new"])
def test_written_values_come_back_under_the_parameters_names(tiny, tmp_path, family):
    """phimoe's experts are stacked in memory and apart on disk."""
    source = open_checkpoint(tiny(family))
    with torch.no_grad():
        state = {n: v + 0.25 for n, v in loaded(tiny(family)).state_dict().items()}
    result, receipt = put(source, state, list(state))
    write_weights(result, tmp_path)
    found = loaded(tmp_path).state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert list(result) == list(source) and result.shards == source.shards
    assert receipt.contract == "trained" and receipt.parameters == {"steps": 3}
    assert len(receipt.changed) == len(source) and receipt.kept == 0


def test_what_is_not_named_keeps_its_bytes(tiny):
    source = open_checkpoint(tiny("gpt2", dtype="bfloat16"))
    state = {n: v + 0.3 for n, v in loaded(tiny("gpt2")).state_dict().items()}
    result, receipt = put(source, state, ["transformer.ln_f.weight"])
    changed = [name for name in result if result[name].range is None]
    assert changed == list(receipt.changed) and len(changed) == 1
    assert receipt.kept == len(source) - 1
    stored = result[changed[0]].load()
    assert stored.dtype is torch.bfloat16
    assert torch.equal(stored, state["transformer.ln_f.weight"].to(torch.bfloat16))


def test_a_tied_parameter_is_written_whichever_of_its_names_is_given(tiny):
    source = open_checkpoint(tiny("gpt2"))
    state = loaded(tiny("gpt2")).state_dict()
    by_head = put(source, state, ["lm_head.weight"])[1]
    by_table = put(source, state, ["transformer.wte.weight"])[1]
    assert by_head.changed == by_table.changed and len(by_head.changed) == 1


def test_integer_storage_is_refused(tiny):
    source = open_checkpoint(tiny("llama"))
    name = "model.layers.0.mlp.up_proj.weight"
    quantized = source.override({name: LazyTensor.of(torch.ones(100, 48, dtype=torch.int8))})
    names = examine(source).names
    with pytest.raises(UnsupportedModelError, match="stored as I8"):
        set_parameters(
            quantized, names, loaded(tiny("llama")).state_dict(), [name],
            surgery="train", contract="trained", parameters={},
        )  # fmt: skip
