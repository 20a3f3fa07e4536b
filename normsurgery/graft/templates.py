"""The pieces of a modeling file."""

from __future__ import annotations

GUARD = "opens only with trust_remote_code=True"

HEADER = '''"""{model} with {kind} where a LayerNorm read the residual stream.

Made by normsurgery from {source}.
Every writer to the stream is centred, so its mean is zero and LayerNorm(x) = RMSNorm(x)
(arXiv 2305.14858). {ways}

    from transformers import {auto_class}
    {auto_class}.from_pretrained(PATH, trust_remote_code=True)
"""'''
ONE_WAY = "The weights fit this class only; the stock class refuses them."
TWO_WAYS = "The same weights open in the stock class too."

NORMFREE_HEADER = '''"""{model} with norms that do not divide.

Made by normsurgery from {source}.
The divisor of each norm below is one frozen number (arXiv 2507.02559), so the norm is an affine
map{where}.
{ways}

    from transformers import {auto_class}
    {auto_class}.from_pretrained(PATH, trust_remote_code=True)
"""'''
IN_READERS = ", and the linears that read it hold it"
IN_PLACE = ", and it stays in its place as one"
IN_BOTH = "; the linears that read it hold it, or it stays in its place as one"

AFFINE = '''
class Affine(nn.Module):
    """The norm that it replaces, with a frozen divisor: (x − mean) · {weight} + {bias}."""

    def __init__(self, norm, centre):
        super().__init__()
        self.{weight} = getattr(norm, "{weight}", None){made}
        self.{bias} = getattr(norm, "{bias}", None)
        self.centre = centre  # an RMSNorm has no mean to subtract

    def forward(self, hidden_states):
        if self.centre:
            hidden_states = hidden_states - hidden_states.mean(-1, keepdim=True)
        scaled = hidden_states * self.{weight}
        return scaled if self.{bias} is None else scaled + self.{bias}
'''
AFFINE_MADE = """
        if self.{weight} is None:  # the norm had no gain: one number holds 1/σ̂
            self.{weight} = nn.Parameter(torch.empty(1))"""

RMSNORM = '''
class RMSNorm(nn.Module):
    """The LayerNorm that it replaces, for a stream whose mean is zero."""

    def __init__(self, norm, eps):
        super().__init__()
        self.{weight} = getattr(norm, "{weight}", None)
        self.{bias} = getattr(norm, "{bias}", None)
        self.eps = eps

    def forward(self, hidden_states):
        gain = {gain}
        normed = F.rms_norm(hidden_states, hidden_states.shape[-1:], gain, self.eps)
        return normed if self.{bias} is None else normed + self.{bias}
'''

CRMSNORM = '''
class CRMSNorm(nn.Module):
    """RMSNorm of a zero-sum vector, given without its last channel."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, hidden_states):
        wide = hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()
        power = wide.square().sum(-1, keepdim=True) + wide.sum(-1, keepdim=True).square()
        width = wide.shape[-1] + 1
        return (wide * torch.rsqrt(power / width + self.eps)).to(hidden_states.dtype)
'''

CENTRED = """
def centred(hidden_states):
    return hidden_states - hidden_states.mean(-1, keepdim=True)
"""

CENTRE_OUTPUT = """
def centre_output(module, args, output):
    return centred(output)
"""

CENTRE_INPUT = """
def centre_input(module, args, kwargs):
    if args:
        return (centred(args[0]), *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: centred(kwargs[first])}
"""

NARROW = """
def narrow(module, name, axis):
    old = getattr(module, name)
    shape = [size - (position == axis) for position, size in enumerate(old.shape)]
    setattr(module, name, nn.Parameter(old.new_empty(shape)))
    if hasattr(module, "nf"):  # transformers' Conv1D reshapes by it
        module.nf = module.weight.shape[1]
"""

FOLDEDBN_HEADER = '''"""{model} with its BatchNorms folded away.

Made by normsurgery from {source}.
At inference a BatchNorm is a scale and a shift per channel; the convolution or linear beside it
holds both.{merged}
For inference only. {ways}

    from transformers import {auto_class}
    {auto_class}.from_pretrained(PATH, trust_remote_code=True)
"""'''
MERGED = " One convolution holds what parallel ones gave (arXiv 2101.03697)."

SILENT = '''
class Silent(nn.Module):
    """Stands where another module holds what this one gave: adds nothing."""

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states.new_zeros(())
'''

LOOKUP = '''
def lookup(table, name):
    """The table's value for a name, by the first pattern that matches, or None."""
    pattern = next((pattern for pattern in table if re.fullmatch(pattern, name)), None)
    return table[pattern] if pattern and isinstance(table, dict) else pattern
'''

GRAFT = '''
def graft(model):
    """Replace the named modules of a stock model, in place."""
    for name, {module} in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
'''

GRAFT_NORMS = """\
        found = lookup(NORMS, name)
        if found is not None:
            module = {made}
            setattr(model.get_submodule(parent), child, module)
"""

GRAFT_REMOVED = """\
        if lookup(REMOVED, name):
            setattr(model.get_submodule(parent), child, nn.Identity())
"""

GRAFT_ACTIVATED = """\
        if lookup(ACTIVATED, name):
            setattr(model.get_submodule(parent), child, nn.Sequential(*module.children()))
"""

GRAFT_SILENT = """\
        if lookup(SILENT, name):
            setattr(model.get_submodule(parent), child, Silent())
"""

GRAFT_CHANNEL_BIASES = """\
        if lookup(BIASES, name):
            outputs = getattr(module, "out_channels", None) or getattr(module, "nf", None)
            size = outputs or module.weight.shape[0]
            module.bias = nn.Parameter(module.weight.new_empty(size))
"""

GRAFT_OUTPUTS = """\
        if lookup(CENTRED_OUTPUTS, name):
            module.register_forward_hook(centre_output)
"""

GRAFT_INPUTS = """\
        if lookup(CENTRED_INPUTS, name):
            module.register_forward_pre_hook(centre_input, with_kwargs=True)
"""

GRAFT_BIASES = """\
        if lookup(BIASES, name):
            size = module.weight.shape[0]
            module.bias = nn.Parameter(module.weight.new_empty(size))
"""

GRAFT_NARROWED = """\
    for name, _ in list(model.named_parameters()):
        parent, _, child = name.rpartition(".")
        axis = lookup(NARROWED, name)
        if axis is not None:
            narrow(model.get_submodule(parent), child, axis)
"""

GRAFTED = '''
class Grafted:
    """A stock model with its modules replaced."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        graft(self)

    @classmethod
    def is_custom_code(cls):
        return False  # the stock class's key renames apply to this one too
'''

_CONFIG = '''
class GraftConfig({base}):
    """The stock configuration under a model type of its own, unreadable for the stock class."""

    model_type = "{model_type}"

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        return super().from_dict({{**config_dict, **config_dict["stock_values"]}}, **kwargs)

    def to_json_string(self, *args, **kwargs):
        values = json.loads(super().to_json_string(*args, **kwargs))
        values["{key}"] = "{guard}"
        return json.dumps(values, indent=2, sort_keys=True) + "\\n"
'''


def config(base: str, model_type: str, key: str) -> str:
    """The configuration class of an exclusive graft; `key` is what the stock class cannot read."""
    return _CONFIG.format(base=base, model_type=model_type, key=key, guard=GUARD)
