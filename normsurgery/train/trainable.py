"""Which parameters train.

`head+last3` is the recipe of arXiv 2411.15558: the head and the last three blocks, and with them
the final norm. A head that shares its table with the input embeddings stays as it is: moving it
would move every token's input as well, under a body that is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from normsurgery.anatomy.examine import Examination
from normsurgery.train.depth import text_stack

LAST_BLOCKS = 3


def freeze(model: nn.Module) -> None:
    """Nothing trains."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def choose_all(model: nn.Module) -> tuple[str, ...]:
    """Every floating parameter trains. Returns notes for the receipt."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return ()


def choose_head_and_last(model: Any, examination: Examination) -> tuple[str, ...]:
    """The last three blocks, the final norm and an untied head train. Returns notes."""
    freeze(model)
    last = text_stack(examination).blocks[-LAST_BLOCKS:]
    modules = [model.get_submodule(name) for name in last]
    modules += [model.get_submodule(name) for name in _final_norms(examination)]
    notes: tuple[str, ...] = ()
    head = model.get_output_embeddings()
    table = model.get_input_embeddings()
    tied = head is not None and table is not None and head.weight is table.weight
    if head is not None:
        modules.append(head)
    for parameter in _floating(modules):
        parameter.requires_grad_(True)
    if tied:
        table.weight.requires_grad_(False)
        notes = ("the head shares its table with the embeddings: it was not trained",)
    return notes


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that train, every name of a tied one."""
    named = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if parameter.requires_grad]


def trained_count(model: nn.Module) -> int:
    """How many numbers train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def without_dropout(model: nn.Module) -> None:
    """Set every dropout to 0: the target is the teacher's own function, without noise."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name or (name == "p" and _drops(module))):
                setattr(module, name, 0.0)


def _drops(module: nn.Module) -> bool:
    return "dropout" in type(module).__name__.lower()


def _final_norms(examination: Examination) -> list[str]:
    sites = examination.anatomy.sites
    return [name for name, site in sites.items() if site.role == "final"]


def _floating(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.is_floating_point()]
