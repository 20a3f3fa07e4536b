"""Attach a modeling file to a checkpoint: the file, `auto_map`, and perhaps a guard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import quiet
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.batchnorm_classes import batch_norm_classes
from normsurgery.graft.classes import offered_classes
from normsurgery.graft.load import load_graft_class
from normsurgery.graft.modeling import auto_map, modeling_file
from normsurgery.graft.plan import GraftPlan
from normsurgery.graft.templates import GUARD

# Integer keys that transformers checks the type of; the first that a configuration has becomes the
# guard: a string there stops every stock class with an error that says what to do.
_GUARD_KEYS = (
    "num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers",
    "hidden_size", "d_model", "projection_dim", "vocab_size", "image_size", "num_channels",
)  # fmt: skip
# What every configuration has and reads loosely.
_NO_GUARD = {"id2label", "label2id", "transformers_version", "architectures"}
_UNFIT = 4


@dataclass(frozen=True)
class Graft:
    """A modeling file ready to travel: its name and text, its classes, its config edits.

    classes: Auto class → model class. refused: model class → why the file does not offer it.
    guard: for an exclusive graft, the config key that the stock class must not be able to read,
    and the value that it has where config.json leaves it out.
    """

    file: str
    text: str
    class_name: str
    classes: dict[str, str]
    refused: dict[str, str]
    config: dict[str, Any]
    guard: tuple[str, Any] | None = None

    @property
    def auto_class(self) -> str:
        """The Auto class that opens the checkpoint's own class."""
        return main_auto_class(self.classes, self.class_name)

    def attach(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the file beside it and the config that points to it."""
        config = {**checkpoint.config, **self.config}
        merged = {**checkpoint.config.get("auto_map", {}), **self.config["auto_map"]}
        config["auto_map"] = merged
        if self.guard:
            key, default = self.guard
            value = checkpoint.config.get(key, default)
            config |= {key: GUARD, "stock_values": {key: value}}
        return checkpoint.with_config(config).with_files({self.file: self.text.encode()})

    def class_of(self) -> Callable[[Path], type]:
        """A function from a directory that holds the file to the model class in it."""
        return lambda directory: load_graft_class(directory, self.file, self.class_name)


def make_graft(
    examination: Examination,
    plan: GraftPlan,
    *,
    source: str,
    part: str | None = None,
    folded: Collection[str] = (),
) -> Graft:
    """Generate the modeling file for an examined checkpoint.

    source: model id for its header. part: the module that the surgery keeps to, None for all.
    folded: norm sites that have lost their γ and β.
    """
    model = examination.twin.model
    own = examination.model_class.__name__
    if plan.batch_norms is not None:
        offered, refused = batch_norm_classes(examination, plan.batch_norms)
    else:
        offered, refused = offered_classes(examination, part=part, folded=folded, plan=plan)
    names = list(dict.fromkeys([own, *offered.values()]))
    module = examination.model_class.__module__
    stock = module.startswith("transformers.")
    file = f"modeling_{plan.name}.py"
    edits: dict[str, Any] = {"auto_map": auto_map(file, offered, exclusive=plan.exclusive)}
    guard = _guard(examination.config, plan) if plan.exclusive else None
    model_type = f"{examination.config.model_type}_{plan.name}"
    if plan.exclusive:
        edits["model_type"] = model_type
    text = modeling_file(
        plan,
        source=source,
        auto_class=main_auto_class(offered, own),
        classes=names,
        modules=[name for name, _ in model.named_modules() if name],
        parameters=[name for name, _ in model.named_parameters(remove_duplicate=False)],
        prefix=model.base_model_prefix,
        origin="transformers" if stock else module.rpartition(".")[2],
        config_class=type(examination.config).__name__,
        model_type=model_type,
        guard=guard[0] if guard else None,
    )
    return Graft(file, text, own, offered, refused, edits, guard)


def main_auto_class(classes: Mapping[str, str], class_name: str) -> str:
    """An Auto class that opens `class_name`; the pre-training one is the last choice."""
    own = [auto for auto, name in classes.items() if name == class_name]
    return next((auto for auto in own if auto != "AutoModelForPreTraining"), "AutoModel")


def _guard(config: Any, plan: GraftPlan) -> tuple[str, Any]:
    """A key of the configuration that the stock class refuses to read a sentence from.

    One of the usual counts where there is one, else any number, else any list or part.
    """
    values = {key: value for key, value in config.to_dict().items() if key not in _NO_GUARD}
    for key in sorted(values, key=lambda key: _guard_rank(key, values[key])):
        if _guard_rank(key, values[key])[0] < _UNFIT and _is_checked(
            type(config), {**config.to_dict(), key: GUARD}
        ):
            return key, values[key]
    raise UnsupportedModelError(
        f"{type(config).__name__} reads any value, so the stock class cannot be kept from opening "
        "what it would compute wrongly",
        _other_form(plan),
    )


def _other_form(plan: GraftPlan) -> str:
    if plan.batch_norms is not None:
        return "--form keep has no such need"
    return f"--{'export' if plan.norm_free else 'target'} stock has no such need"


def _guard_rank(key: str, value: Any) -> tuple[int, int]:
    """How fit a key is to be the guard: the smaller, the better."""
    if isinstance(value, str | bool) or value is None:
        return _UNFIT, 0
    if isinstance(value, int):
        return (0, _GUARD_KEYS.index(key)) if key in _GUARD_KEYS else (1, 0)
    return (3, 0) if isinstance(value, Mapping) else (2, 0)


def _is_checked(config_class: Any, values: dict[str, Any]) -> bool:
    try:
        with quiet():
            config_class.from_dict(values)
    except Exception:  # whatever the class refuses it with
        return True
    return False
