"""A model whose code travels with its checkpoint works the same way, with permission."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import normsurgery

CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class ToyConfig(PretrainedConfig):
    model_type = "toy_preln"

    def __init__(self, vocab_size=50, hidden_size=32, num_hidden_layers=2, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, 4


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.hidden_size
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(3 * d, d, bias=False)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class ToyModel(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.final = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids):
        x = self.wte(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.final(x)


class ToyForCausalLM(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = ToyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids)))
"""


@pytest.fixture
def remote(tmp_path):
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "modeling_toy.py").write_text(CODE)
    config = {
        "architectures": ["ToyForCausalLM"], "model_type": "toy_preln", "vocab_size": 50,
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "auto_map": {
            "AutoConfig": "modeling_toy.ToyConfig",
            "AutoModelForCausalLM": "modeling_toy.ToyForCausalLM",
        },
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"model.wte.weight": (50, 32), "lm_head.weight": (50, 32)}
    for i in range(2):
        shapes |= {f"model.blocks.{i}.{name}": shape for name, shape in {
            "norm.weight": (32,), "norm.bias": (32,), "up.weight": (96, 32), "up.bias": (96,),
            "down.weight": (32, 96)}.items()}  # fmt: skip
    shapes |= {"model.final.weight": (32,), "model.final.bias": (32,)}
    tensors = {n: torch.randn(s, generator=generator) * 0.3 + 0.1 for n, s in shapes.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_it_is_refused_without_permission_and_says_which_files_would_run(remote, tmp_path):
    with pytest.raises(normsurgery.UnsupportedModelError, match=r"modeling_toy\.py") as caught:
        normsurgery.convert(remote, tmp_path / "out")
    assert "--trust-remote-code" in caught.value.hint
    assert not (tmp_path / "out").exists()


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
source, out = (AutoModelForCausalLM.from_pretrained(p, trust_remote_code=True).double().eval()
               for p in sys.argv[1:])
kinds = {type(m).__name__ for m in out.modules()}
assert "RMSNorm" in kinds and "LayerNorm" not in kinds, kinds
ids = torch.arange(12)[None]
with torch.no_grad():
    a, b = source(ids).logits, out(ids).logits
assert (a - b).abs().max() < 1e-5 * a.std(), (a - b).abs().max()
"""


@pytest.mark.slow
def test_it_is_proved_verified_and_opens_with_trust(remote, tmp_path):
    out = tmp_path / "out"
    document = normsurgery.convert(remote, out, trust_remote_code=True).to_dict()
    assert document["verification"]["verdict"] == "pass"
    assert (out / "modeling_toy.py").read_text() == CODE
    auto_map = json.loads((out / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForCausalLM"] == "modeling_rmsnorm.ToyForCausalLM"
    assert auto_map["AutoConfig"] == "modeling_toy.ToyConfig"
    subprocess.run([sys.executable, "-c", LOAD, str(remote), str(out)], check=True, timeout=300)
