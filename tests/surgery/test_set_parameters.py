"""Other values in a checkpoint's own names, layout and dtype."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.checkpoint import LazyTensor, open_checkpoint, write_weights
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.set_parameters import set_parameters
from tests.calibrate.language_models import LANGUAGE_MODELS
from tests.families import build_spec


def loaded(directory, dtype=torch.float32):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)


def put(source, state, changed):
    names = examine(source).names
    return set_parameters(
        source, names, {name: state[name] for name in changed},
        surgery="train", contract="trained", parameters={"steps": 3},
    )  # fmt: skip


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
            quantized, names, {name: torch.ones(100, 48)},
            surgery="train", contract="trained", parameters={},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("llama", "mlp.down_proj.weight"),
        ("gpt2", "mlp.c_proj.weight"),  # [in, out]
        ("mixtral", "mlp.experts.down_proj"),  # one tensor an expert on disk
        ("phi3", "mlp.gate_up_proj.weight"),
    ],
)
def test_a_block_s_weight_lies_where_the_stock_class_reads_it(name, weight, tmp_path):
    build_spec(LANGUAGE_MODELS[name], tmp_path / name)
    checkpoint = open_checkpoint(tmp_path / name)
    examination = examine(checkpoint)
    stack = choose_stack(read_stacks(examination))
    parameter = f"{stack.blocks[1]}.{weight}"
    model_class = getattr(transformers, checkpoint.config["architectures"][0])
    shape = model_class.from_pretrained(tmp_path / name).get_parameter(parameter).shape
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result, receipt = set_parameters(
        checkpoint, examination.names, {parameter: value}, surgery="substitute", contract="fitted",
        parameters={}, shared=False,
    )  # fmt: skip
    state = {
        disk: result[disk].load() for disk, part in examination.names.parts.items()
        if part.parameter == parameter
    }  # fmt: skip
    assert set(receipt.changed) == set(state)
    assert state
    for disk, stored in state.items():
        assert torch.equal(stored, examination.names.parts[disk].cut(value))
        assert stored.shape == checkpoint[disk].shape
    untouched = set(checkpoint) - set(state)
    assert all(torch.equal(result[disk].load(), checkpoint[disk].load()) for disk in untouched)


def test_a_shared_tensor_is_refused_where_it_may_not_be(tiny):
    source = open_checkpoint(tiny("gpt2"))
    state = loaded(tiny("gpt2")).state_dict()
    with pytest.raises(UnsupportedModelError, match="shares its tensor"):
        set_parameters(
            source, examine(source).names, {"lm_head.weight": state["lm_head.weight"]},
            surgery="substitute", contract="fitted", parameters={}, shared=False,
        )  # fmt: skip
