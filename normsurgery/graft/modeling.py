"""Write the modeling file: self-contained, readable, importing torch and transformers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.graft.patterns import patterns
from normsurgery.graft.plan import GraftPlan

GUARD = "opens only with trust_remote_code=True"


def modeling_file(
    plan: GraftPlan,
    *,
    source: str,
    classes: Sequence[str],
    modules: Sequence[str],
    parameters: Sequence[str],
    prefix: str,
    origin: str = "transformers",
    config_class: str = "",
    model_type: str = "",
    guard: str | None = None,
) -> str:
    """The text of `modeling_rmsnorm.py` (or `modeling_crmsnorm.py`).

    source: model id, for the header. classes: stock classes to subclass; they are imported from
    `origin`. modules, parameters: all names of the source's class. prefix: of its base model.
    config_class, model_type, guard: for an exclusive graft, the stock configuration class, the
    new model type, and the config key that the stock class must not be able to read.
    """
    tables = _tables(plan, modules, parameters, prefix)
    pieces = [
        _header(plan, source, classes),
        _imports(origin, exclusive=plan.exclusive),
        *(f"# {comment}\n{name} = {_literal(value)}\n" for name, comment, value in tables),
        "\n" + (_CRMSNORM if plan.width else _rms_norm(plan)),
        *([_CENTRED] if plan.centred_outputs or plan.centred_inputs else []),
        *([_CENTRE_OUTPUT] if plan.centred_outputs else []),
        *([_CENTRE_INPUT] if plan.centred_inputs else []),
        *([_NARROW] if plan.narrowed else []),
        _graft(plan),
    ]
    base = "transformers." if origin == "transformers" else "stock."
    if plan.exclusive and guard:
        pieces.append(_config(base + config_class, model_type, guard))
    pieces += [_model(base + name, name, exclusive=plan.exclusive) for name in classes]
    return "\n".join(pieces)


def auto_map(file: str, classes: Mapping[str, str], *, exclusive: bool) -> dict[str, str]:
    """`auto_map` for config.json. classes: Auto class → model class."""
    module = file.removesuffix(".py")
    mapped = {auto: f"{module}.{name}" for auto, name in classes.items()}
    return {"AutoConfig": f"{module}.GraftConfig", **mapped} if exclusive else mapped


def _tables(
    plan: GraftPlan, modules: Sequence[str], parameters: Sequence[str], prefix: str
) -> list[tuple[str, str, Any]]:
    if plan.width:
        norms: dict[str, Any] = {s.name: (s.norm.width, s.norm.eps) for s in plan.norms}
        what = "LayerNorms that become CRMSNorms → (original width, eps)."
    else:
        norms = {site.name: site.norm.eps for site in plan.norms}
        what = "LayerNorms that read the residual stream and become RMSNorms → eps."
    tables = [("NORMS", what, patterns(norms, modules, prefix=prefix))]
    for name, comment, wanted in (
        ("CENTRED_OUTPUTS", "Modules whose result loses its mean.", plan.centred_outputs),
        ("CENTRED_INPUTS", "Modules whose argument loses its mean.", plan.centred_inputs),
        ("REMOVED", "Norms that are baked into the embedding table.", plan.removed),
        ("BIASES", "Linears that take a norm's bias.", plan.biases),
    ):  # fmt: skip
        if wanted:
            found = patterns(dict.fromkeys(wanted, True), modules, prefix=prefix)
            tables.append((name, comment, tuple(found)))
    if plan.narrowed:
        comment = "Parameters without the stream's last channel → its axis."
        narrowed = patterns(dict(plan.narrowed), parameters, prefix=prefix)
        tables.append(("NARROWED", comment, narrowed))
    return tables


def _literal(value: Mapping[str, Any] | tuple[str, ...]) -> str:
    if isinstance(value, Mapping):
        rows = "".join(f'    r"{pattern}": {number!r},\n' for pattern, number in value.items())
        return f"{{\n{rows}}}"
    return "(\n" + "".join(f'    r"{pattern}",\n' for pattern in value) + ")"


def _header(plan: GraftPlan, source: str, classes: Sequence[str]) -> str:
    kind = "CRMSNorm" if plan.width else "RMSNorm"
    ways = (
        "The weights fit this class only: the stock class refuses them."
        if plan.exclusive
        else "The same weights open in the stock class too, with the same outputs."
    )
    return f'''"""{classes[0]} with {kind} where a LayerNorm read the residual stream.

Made by normsurgery from {source}. Every writer to the stream is centred, so its mean is zero and
LayerNorm(x) = RMSNorm(x) (arXiv 2305.14858). {ways}

    from transformers import AutoModel  # or the Auto class of your task
    AutoModel.from_pretrained(PATH, trust_remote_code=True)
"""
'''


def _imports(origin: str, *, exclusive: bool) -> str:
    lines = ["import json"] if exclusive else []
    lines += ["import re", "", "import torch", "import transformers", "from torch import nn"]
    lines += ["from torch.nn import functional as F"]
    if origin != "transformers":
        lines += ["", f"from . import {origin} as stock"]
    return "\n".join(lines) + "\n"


def _rms_norm(plan: GraftPlan) -> str:
    weights = {site.norm.weight for site in plan.norms}
    biases = {site.norm.bias for site in plan.norms}
    offsets = {site.norm.offset for site in plan.norms if site.norm.weight}
    weight = next((name for name in weights if name), "weight")
    bias = next((name for name in biases if name), "bias")
    gain = "self.weight + 1" if offsets == {1.0} else "self.weight"
    note = "  # the class stores γ − 1" if offsets == {1.0} else ""
    if offsets == {1.0} and None in weights:
        gain = "None if self.weight is None else self.weight + 1"
    return f'''class RMSNorm(nn.Module):
    """The LayerNorm that it replaces, for a stream whose mean is zero."""

    def __init__(self, norm, eps):
        super().__init__()
        self.{weight} = getattr(norm, "{weight}", None)
        self.{bias} = getattr(norm, "{bias}", None)
        self.eps = eps

    def forward(self, hidden_states):
        gain = {gain.replace("weight", weight)}{note}
        normed = F.rms_norm(hidden_states, hidden_states.shape[-1:], gain, self.eps)
        return normed if self.{bias} is None else normed + self.{bias}

'''


_CRMSNORM = '''class CRMSNorm(nn.Module):
    """RMSNorm of a zero-sum vector of the original width, given without its last channel."""

    def __init__(self, width, eps):
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, hidden_states):
        wide = hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()
        power = wide.square().sum(-1, keepdim=True) + wide.sum(-1, keepdim=True).square()
        return (wide * torch.rsqrt(power / self.width + self.eps)).to(hidden_states.dtype)

'''

_CENTRED = """
def centred(hidden_states):
    return hidden_states - hidden_states.mean(-1, keepdim=True)

"""

_CENTRE_OUTPUT = """
def centre_output(module, args, output):
    return centred(output)

"""

_CENTRE_INPUT = """
def centre_input(module, args, kwargs):
    if args:
        return (centred(args[0]), *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: centred(kwargs[first])}

"""

_NARROW = """
def narrow(module, name, axis):
    old = getattr(module, name)
    shape = [size - (position == axis) for position, size in enumerate(old.shape)]
    setattr(module, name, nn.Parameter(old.new_empty(shape)))
    if hasattr(module, "nf"):  # transformers' Conv1D reshapes by it
        module.nf = module.weight.shape[1]

"""


def _graft(plan: GraftPlan) -> str:
    made = "CRMSNorm(*found)" if plan.width else "RMSNorm(module, found)"
    lines = [
        "",
        "def lookup(table, name):",
        '    """The table\'s value for a name, by the first pattern that matches, or None."""',
        "    matches = (pattern for pattern in table if re.fullmatch(pattern, name))",
        "    pattern = next(matches, None)",
        "    return table[pattern] if pattern and isinstance(table, dict) else pattern",
        "",
        "",
        "def graft(model):",
        '    """Replace the named modules of a stock model, in place."""',
        "    for name, module in list(model.named_modules()):",
        '        parent, _, child = name.rpartition(".")',
        "        found = lookup(NORMS, name)",
        "        if found is not None:",
        f"            setattr(model.get_submodule(parent), child, {made})",
    ]
    if plan.removed:
        lines += [
            "        if lookup(REMOVED, name):",
            "            setattr(model.get_submodule(parent), child, nn.Identity())",
        ]
    if plan.centred_outputs:
        lines += [
            "        if lookup(CENTRED_OUTPUTS, name):",
            "            module.register_forward_hook(centre_output)",
        ]
    if plan.centred_inputs:
        lines += [
            "        if lookup(CENTRED_INPUTS, name):",
            "            module.register_forward_pre_hook(centre_input, with_kwargs=True)",
        ]
    if plan.biases:
        lines += [
            "        if lookup(BIASES, name):",
            "            size = module.weight.shape[0]",
            "            module.bias = nn.Parameter(module.weight.new_empty(size))",
        ]
    if plan.narrowed:
        lines += [
            "    for name, _ in list(model.named_parameters()):",
            '        parent, _, child = name.rpartition(".")',
            "        axis = lookup(NARROWED, name)",
            "        if axis is not None:",
            "            narrow(model.get_submodule(parent), child, axis)",
        ]
    return "\n".join(lines) + "\n"


def _config(base: str, model_type: str, guard: str) -> str:
    return f'''
class GraftConfig({base}):
    """The stock configuration under a model type of its own, unreadable for the stock class."""

    model_type = "{model_type}"

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        return super().from_dict({{**config_dict, **config_dict["stock_values"]}}, **kwargs)

    def to_json_string(self, *args, **kwargs):
        values = json.loads(super().to_json_string(*args, **kwargs))
        values["{guard}"] = "{GUARD}"
        return json.dumps(values, indent=2, sort_keys=True) + "\\n"

'''


def _model(base: str, name: str, *, exclusive: bool) -> str:
    config = "    config_class = GraftConfig\n\n" if exclusive else ""
    return f"""
class {name}({base}):
{config}    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        graft(self)

    @classmethod
    def is_custom_code(cls):
        return False  # the stock class's key renames apply to this one too

"""
