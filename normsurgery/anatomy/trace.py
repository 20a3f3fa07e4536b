"""One forward pass of a model, recorded as a graph: a node per tensor.

A `TorchFunctionMode` sees every torch function that the model's Python code calls. Each tensor that
comes out becomes a `Node` with the function, its arguments (tensors replaced by their nodes) and
the module that was running. Norm modules are atomic: they are one node, whatever they do inside.
Reads of metadata (shapes, dtypes, `view_as`) are not reads of data. Tensors changed in place get a
new node; a tensor changed behind its node's back (through a view) is marked stale.

A trace is of one configuration and one input: branches not taken are not in it.
Knows nothing of files, checkpoints or what a residual stream is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NORM = "norm module"  # the op of a norm's node; torch has a function called norm
# Functions that take another tensor only for its shape, dtype or device.
_LIKE = {
    "view_as", "reshape_as", "expand_as", "type_as", "zeros_like", "ones_like", "empty_like",
    "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full",
    "new_tensor",
}  # fmt: skip
_FRESH = {name for name in _LIKE if name.endswith("_like") or name.startswith("new_")}
# Functions that return no tensor and yet read the data.
_HOST_READS = {
    "item", "__bool__", "__int__", "__float__", "__index__", "tolist", "numpy", "equal",
    "allclose", "__contains__",
}  # fmt: skip


@dataclass(eq=False)
class Node:
    """One tensor of the forward pass, or (with value None) a read of data by the host."""

    index: int
    op: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    parents: tuple[Node, ...]
    value: Tensor | None
    module: str
    output: int = 0
    version: int = 0
    stale: bool = False
    consumers: list[Node] = field(default_factory=list)

    def __repr__(self) -> str:
        shape = tuple(self.value.shape) if self.value is not None else "host"
        return f"Node({self.index}, {self.op}, {shape}, in {self.module!r})"

    @property
    def is_parameter(self) -> bool:
        return self.op == "parameter"

    def rerun(self, values: Mapping[Node, Tensor]) -> Tensor:
        """Run the function again with some parents' values replaced; shapes must agree."""
        assert self.function is not None

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Node):
                return leaf
            value = values.get(leaf, leaf.value)
            assert value is not None
            return value.clone()  # in-place functions must not touch the recorded values

        args, kwargs = _mapped(fill, self.args), _mapped(fill, self.kwargs)
        with torch.no_grad():
            result = self.function(*args, **kwargs)
        if self.op == "__setitem__":
            return args[0]  # type: ignore[no-any-return]
        return list(tensors_in(result))[self.output]


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: the nodes of its first argument (if float) and first float result.

    plain: whether that result is all that it returns.
    started, ended: the nodes made meanwhile have indices in range(started, ended).
    """

    name: str
    input: Node | None
    output: Node | None
    started: int
    ended: int
    plain: bool = True


@dataclass
class Trace:
    """The graph of one forward: nodes in order of creation, module calls, named outputs."""

    nodes: list[Node]
    calls: list[ModuleCall]
    outputs: dict[str, Node]
    parameters: dict[str, Node]

    def norm_nodes(self) -> Iterator[Node]:
        return (node for node in self.nodes if node.op == NORM)


class _Recorder(TorchFunctionMode):
    def __init__(self, names: dict[int, tuple[str, str]]) -> None:
        super().__init__()
        self.names = names  # id of a parameter or buffer → (kind, name)
        self.nodes: list[Node] = []
        self.latest: dict[int, Node] = {}
        self.parameters: dict[str, Node] = {}
        self.stack: list[str] = [""]
        self.muted = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.muted:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        leaves = [*tensors_in(args), *tensors_in(kwargs)]
        parents = {id(leaf): self.node_of(leaf) for leaf in leaves} if name != "__get__" else {}
        result = func(*args, **kwargs)
        if name in ("__get__", "__set__") and not _is_data_property(func):
            return result  # .shape, .dtype, .device, .requires_grad …
        if name == "__get__":
            name = func.__self__.__name__  # type: ignore[attr-defined]  # .T, .mT, .data …
            parents = {id(leaf): self.node_of(leaf) for leaf in leaves}
        self.record(func, name, args, kwargs, parents, result)
        return result

    def node_of(self, tensor: Tensor) -> Node:
        node = self.latest.get(id(tensor))
        if node is None:
            kind, name = self.names.get(id(tensor), ("constant", ""))
            node = self.add(kind, None, (), {}, (), tensor, module=name or self.stack[-1])
            if kind == "parameter":
                self.parameters[name] = node
        elif tensor._version != node.version and node.op != "parameter":
            node.stale = True
        return node

    def add(
        self,
        op: str,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parents: tuple[Node, ...],
        value: Tensor | None,
        *,
        output: int = 0,
        module: str | None = None,
    ) -> Node:
        node = Node(
            index=len(self.nodes), op=op, function=function, args=args, kwargs=kwargs,
            parents=parents, value=value, output=output,
            module=self.stack[-1] if module is None else module,
            version=value._version if value is not None else 0,
        )  # fmt: skip
        self.nodes.append(node)
        for parent in dict.fromkeys(parents):
            parent.consumers.append(node)
        if value is not None:
            self.latest[id(value)] = node
        return node

    def record(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parents: dict[int, Node],
        result: Any,
    ) -> None:
        def as_node(leaf: Any) -> Any:
            return parents.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

        node_args, node_kwargs = _mapped(as_node, args), _mapped(as_node, kwargs)
        read = _data_parents(name, args, parents)
        outputs = list(tensors_in(result))
        if name == "__setitem__":
            outputs = [args[0]]
        for position, output in enumerate(outputs):
            if id(output) in parents and output._version == parents[id(output)].version:
                continue  # a no-op handed its argument back: the same node
            self.add(name, func, node_args, node_kwargs, read, output, output=position)
        if not outputs and name in _HOST_READS:
            self.add(name, None, node_args, node_kwargs, read, None)


def _is_data_property(func: Callable[..., Any]) -> bool:
    owner = getattr(func, "__self__", None)
    return getattr(owner, "__name__", "") in ("T", "mT", "H", "mH", "data", "real", "imag")


def _data_parents(name: str, args: tuple[Any, ...], parents: dict[int, Node]) -> tuple[Node, ...]:
    if name in _FRESH:
        return ()
    if name in _LIKE or (name == "to" and len(args) > 1 and isinstance(args[1], Tensor)):
        return (parents[id(args[0])],)
    return tuple(parents.values())


@contextmanager
def _hooks(
    model: nn.Module, recorder: _Recorder, atomic: set[str], calls: list[ModuleCall]
) -> Iterator[None]:
    """Module hooks: keep the module stack, note the calls, make norm modules atomic."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            before, after = _hook_pair(name, name in atomic, recorder, calls)
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield


def _hook_pair(
    name: str, atomic: bool, recorder: _Recorder, calls: list[ModuleCall]
) -> tuple[Callable[..., None], Callable[..., None]]:
    started: list[tuple[int, Node | None]] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        first = _first_tensor(args[:1] or list(kwargs.values())[:1])
        read = recorder.node_of(first) if first is not None and not recorder.muted else None
        started.append((len(recorder.nodes), read))
        recorder.stack.append(name)
        recorder.muted += atomic

    def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        recorder.muted -= atomic
        recorder.stack.pop()
        start, read = started.pop()
        if recorder.muted:
            return
        made = _first_tensor(result)
        if atomic and made is not None and read is not None:
            recorder.add(NORM, None, (), {}, (read,), made, module=name)
        output = recorder.node_of(made) if made is not None else None
        plain = isinstance(result, Tensor)
        calls.append(ModuleCall(name, read, output, start, len(recorder.nodes), plain))

    return before, after


def _first_tensor(tree: Any) -> Tensor | None:
    return next((leaf for leaf in tensors_in(tree) if leaf.is_floating_point()), None)


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings (many times faster than torch's pytree)."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item)
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors_in(item)


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nesting with `function` applied to every leaf."""
    if isinstance(tree, (tuple, list)):
        items = [_mapped(function, item) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: _mapped(function, item) for key, item in tree.items()}
    return function(tree)


def trace(model: nn.Module, inputs: Mapping[str, Any], *, norms: set[str]) -> Trace:
    """Run the model once and return its graph.

    model: in eval mode. inputs: keyword arguments of its forward. norms: names of the modules to be
    recorded as one node each. Outputs are named by their path in the ModelOutput
    (`logits`, `hidden_states.0`, `vision_model_output.last_hidden_state`).
    """
    names = {id(p): ("parameter", n) for n, p in model.named_parameters()}
    names |= {id(b): ("buffer", n) for n, b in model.named_buffers()}
    recorder = _Recorder(names)
    calls: list[ModuleCall] = []
    with torch.no_grad(), _hooks(model, recorder, norms, calls), recorder:
        result = model(**inputs)
    outputs = {
        name: recorder.node_of(tensor)
        for name, tensor in named_outputs(result).items()
        if tensor.is_floating_point()
    }
    return Trace(recorder.nodes, calls, outputs, recorder.parameters)


def named_outputs(result: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a ModelOutput (or tuple, or mapping), by dotted path; caches left out."""
    if isinstance(result, Tensor):
        return {prefix.rstrip("."): result}
    found: dict[str, Tensor] = {}
    if isinstance(result, Mapping):
        pairs = [(str(key), value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        pairs = [(str(position), value) for position, value in enumerate(result)]
    else:
        return found
    for key, value in pairs:
        if key != "past_key_values":
            found |= named_outputs(value, f"{prefix}{key}.")
    return found
