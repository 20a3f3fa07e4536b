"""Write the modeling file: self-contained, readable, importing torch and transformers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from normsurgery.graft import templates
from normsurgery.graft.patterns import patterns
from normsurgery.graft.plan import GraftPlan


def modeling_file(
    plan: GraftPlan,
    *,
    source: str,
    auto_class: str,
    classes: Sequence[str],
    modules: Sequence[str],
    parameters: Sequence[str],
    prefix: str,
    origin: str = "transformers",
    config_class: str = "",
    model_type: str = "",
    guard: str | None = None,
) -> str:
    """The text of `modeling_rmsnorm.py` (or crmsnorm, or normfree: what `plan.name` says).

    source, auto_class: model id and Auto class, for the header. classes: stock classes to
    subclass, imported from `origin`. modules, parameters: all names of the source's class.
    prefix: of its base model.
    config_class, model_type, guard: for an exclusive graft, the stock configuration class, the
    new model type, and the config key that the stock class must not be able to read.
    """
    stock = "transformers." if origin == "transformers" else "Stock"
    tables = _tables(plan, modules, parameters, prefix)
    pieces = [
        _header(plan, source, auto_class, classes),
        _imports(origin, classes, config_class, plan),
        *(f"# {comment}\n{name} = {_literal(value)}" for name, comment, value in tables),
        _norm_class(plan),
        templates.CENTRED if plan.centred_outputs or plan.centred_inputs else "",
        templates.CENTRE_OUTPUT if plan.centred_outputs else "",
        templates.CENTRE_INPUT if plan.centred_inputs else "",
        templates.NARROW if plan.narrowed else "",
        templates.LOOKUP,
        _graft(plan),
        templates.config(stock + config_class, model_type, guard) if guard else "",
        templates.GRAFTED,
        *(_model(stock + name, name, exclusive=plan.exclusive) for name in classes),
    ]
    return _spaced([piece.strip("\n") for piece in pieces if piece])


def auto_map(file: str, classes: Mapping[str, str], *, exclusive: bool) -> dict[str, str]:
    """`auto_map` for config.json. classes: Auto class → model class."""
    module = file.removesuffix(".py")
    mapped = {auto: f"{module}.{name}" for auto, name in classes.items()}
    return {"AutoConfig": f"{module}.GraftConfig", **mapped} if exclusive else mapped


def _spaced(pieces: list[str]) -> str:
    """Join with one blank line before assignments, two before and after functions and classes."""
    text = pieces[0]
    for before, piece in pairwise(pieces):
        wide = piece.startswith(("def ", "class ")) or before.startswith(("def ", "class "))
        text += "\n" * (3 if wide else 2) + piece
    return text + "\n"


def _tables(
    plan: GraftPlan, modules: Sequence[str], parameters: Sequence[str], prefix: str
) -> list[tuple[str, str, Any]]:
    tables: list[tuple[str, str, Any]] = []
    norms, comment = _norms(plan)
    if norms:
        tables.append(("NORMS", comment, patterns(norms, modules, prefix=prefix)))
    held = "Norms that are baked into the embedding table."
    if plan.norm_free:
        held = "Norms that the linears that read them hold."
    what = "Linears that take a norm's bias."
    if plan.batch_norms is not None:
        held = "BatchNorms that the convolutions and linears beside them hold."
        what = "Convolutions and linears that get a bias."
    for name, comment, wanted in (
        ("CENTRED_OUTPUTS", "Modules whose result loses its mean.", plan.centred_outputs),
        ("CENTRED_INPUTS", "Modules whose argument loses its mean.", plan.centred_inputs),
        ("REMOVED", held, plan.removed),
        ("ACTIVATED", "BatchNorms of which the activation stays.", plan.activated),
        ("SILENT", "Modules whose part another module holds.", plan.silent),
        ("BIASES", what, plan.biases),
    ):
        if wanted:
            found = patterns(dict.fromkeys(wanted, True), modules, prefix=prefix)
            tables.append((name, comment, tuple(found)))
    if plan.narrowed:
        comment = "Parameters without the stream's last channel → its axis."
        narrowed = patterns(dict(plan.narrowed), parameters, prefix=prefix)
        tables.append(("NARROWED", comment, narrowed))
    return tables


def _norms(plan: GraftPlan) -> tuple[dict[str, Any], str]:
    """The norms that become something else → what the new module is told, and a comment."""
    if plan.norm_free:
        centred = {site.name: site.norm.kind == "LayerNorm" for site in plan.norms}
        return centred, "Norms that stay in their place, as affine maps → subtracts the mean."
    kind = "CRMSNorms" if plan.narrowed else "RMSNorms"
    what = f"LayerNorms that read the residual stream and become {kind} → eps."
    return {site.name: site.norm.eps for site in plan.norms}, what


def _literal(value: Mapping[str, Any] | tuple[str, ...]) -> str:
    if isinstance(value, Mapping):
        rows = "".join(f'    r"{pattern}": {number!r},\n' for pattern, number in value.items())
        return f"{{\n{rows}}}"
    if len(value) == 1:
        return f'(r"{value[0]}",)'
    return "(\n" + "".join(f'    r"{pattern}",\n' for pattern in value) + ")"


def _header(plan: GraftPlan, source: str, auto_class: str, classes: Sequence[str]) -> str:
    named = {"model": classes[0], "source": source, "auto_class": auto_class}
    named["ways"] = templates.ONE_WAY if plan.exclusive else templates.TWO_WAYS
    if plan.batch_norms is not None:
        merged = templates.MERGED if plan.silent else ""
        return templates.FOLDEDBN_HEADER.format(**named, merged=merged)
    if plan.norm_free:
        where = templates.IN_READERS if plan.removed else templates.IN_PLACE
        both = plan.removed and plan.norms
        return templates.NORMFREE_HEADER.format(**named, where=templates.IN_BOTH if both else where)
    return templates.HEADER.format(**named, kind="CRMSNorm" if plan.narrowed else "RMSNorm")


def _imports(origin: str, classes: Sequence[str], config_class: str, plan: GraftPlan) -> str:
    lines = ["import json"] if plan.exclusive else []
    lines += ["import re", ""]
    functional = not (plan.narrowed or plan.norm_free or plan.batch_norms)
    lines += ["import torch"] if plan.narrowed or _has_gainless(plan) else []
    lines += ["import transformers"] if origin == "transformers" else []
    lines += ["from torch import nn"]
    lines += ["from torch.nn import functional as F"] if functional else []
    if origin != "transformers":  # one line a name: transformers looks for this form
        needed = [*classes, *([config_class] if plan.exclusive else [])]
        lines += ["", *(f"from .{origin} import {name} as Stock{name}" for name in needed)]
    return "\n".join(lines)


def _norm_class(plan: GraftPlan) -> str:
    """The class of the modules that stand for the norms, "" where none is needed."""
    if plan.narrowed:
        return templates.CRMSNORM
    if plan.batch_norms is not None:
        return templates.SILENT if plan.silent else ""
    if plan.norm_free:
        return _affine(plan) if plan.norms else ""
    return _rms_norm(plan)


def _has_gainless(plan: GraftPlan) -> bool:
    return plan.norm_free and any(not site.norm.weight for site in plan.norms)


def _affine(plan: GraftPlan) -> str:
    """The affine map, with the names of these norms' parameters."""
    weight, bias = _parameter_names(plan)
    made = templates.AFFINE_MADE.format(weight=weight) if _has_gainless(plan) else ""
    return templates.AFFINE.format(weight=weight, bias=bias, made=made)


def _parameter_names(plan: GraftPlan) -> tuple[str, str]:
    weight = next((site.norm.weight for site in plan.norms if site.norm.weight), "weight")
    bias = next((site.norm.bias for site in plan.norms if site.norm.bias), "bias")
    return weight, bias


def _rms_norm(plan: GraftPlan) -> str:
    """The RMSNorm class, with only the attributes and the γ − 1 that these norms need."""
    weight, bias = _parameter_names(plan)
    gain = f"self.{weight}"
    if any(site.norm.weight and site.norm.offset for site in plan.norms):
        gain = f"self.{weight} + 1  # the class stores γ − 1"
    return templates.RMSNORM.format(weight=weight, bias=bias, gain=gain)


def _graft(plan: GraftPlan) -> str:
    made = "CRMSNorm(found)" if plan.narrowed else "RMSNorm(module, found)"
    if plan.norm_free:
        made = "Affine(module, found)"
    used = plan.norms or plan.centred_outputs or plan.centred_inputs or plan.biases
    used = used or plan.activated
    biases = templates.GRAFT_CHANNEL_BIASES if plan.batch_norms else templates.GRAFT_BIASES
    return templates.GRAFT.format(module="module" if used else "_") + "".join(
        piece
        for piece, wanted in (
            (templates.GRAFT_NORMS.format(made=made), plan.norms),
            (templates.GRAFT_REMOVED, plan.removed),
            (templates.GRAFT_ACTIVATED, plan.activated),
            (templates.GRAFT_SILENT, plan.silent),
            (templates.GRAFT_OUTPUTS, plan.centred_outputs),
            (templates.GRAFT_INPUTS, plan.centred_inputs),
            (biases, plan.biases),
            (templates.GRAFT_NARROWED, plan.narrowed),
        )
        if wanted
    )


def _model(base: str, name: str, *, exclusive: bool) -> str:
    body = "config_class = GraftConfig" if exclusive else "pass"
    return f"class {name}(Grafted, {base}):\n    {body}"
