"""What a recipe may say: the keys of each surgery's step, their types and their choices.

Written down a second time, because reading a recipe must not import a surgery (and torch with it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Types: TypeAlias = tuple[type, ...]
Keys: TypeAlias = Mapping[str, Types]

_TEXT: Types = (str,)
_FLAG: Types = (bool,)
_COUNT: Types = (int,)
_NUMBER: Types = (int, float)

_STORED: dict[str, Types] = {
    "dtype": _TEXT,
    "max_shard_size": (str, int),
    "allow_nonfinite": _FLAG,
}
_READ: dict[str, Types] = {
    "data": _TEXT,
    "text_column": _TEXT,
    "tokens": _COUNT,
    "max_length": _COUNT,
}
_DRAWN: dict[str, Types] = {"plots": _FLAG}
_DTYPES = ("float64", "float32", "bfloat16", "float16")

# Keys outside the steps → the types they take; None in a recipe always means the default.
TOP: Keys = {
    "source": _TEXT,
    "steps": (list,),
    "verify": (bool, dict),
    "output": _TEXT,
    "overwrite": _FLAG,
    "device": _TEXT,
    "seed": _COUNT,
    "trust_remote_code": _FLAG,
    "allow_pickle": _FLAG,
}
VERIFY: Keys = {"data": _TEXT, "keep_failed": _FLAG}


@dataclass(frozen=True)
class Surgery:
    """keys: what a step may say; needed: what it must. choices: key → the words that it takes.

    A surgery without a key `data` has a text to verify on instead, under `verify`.
    """

    keys: Keys
    needed: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SURGERIES: Mapping[str, Surgery] = {
    "convert": Surgery(
        {
            "to": _TEXT,
            "target": _TEXT,
            "fold_affine": _FLAG,
            "untie": _FLAG,
            "part": _TEXT,
            **_STORED,
        },
        choices={
            "to": ("rmsnorm", "crmsnorm"),
            "target": ("auto", "native", "stock", "graft"),
            "dtype": _DTYPES,
        },
    ),
    "fold_bn": Surgery(
        {"form": _TEXT, "example": _TEXT, **_STORED},
        choices={"form": ("keep", "native", "graft"), "dtype": _DTYPES},
    ),
    "prune": Surgery(
        {
            "drop": (str, int),
            "stack": _TEXT,
            "method": _TEXT,
            "iterative": _FLAG,
            "explain": _FLAG,
            "substitute": _TEXT,
            "objective": _TEXT,
            "heal": _TEXT,
            **_READ,
            "other_data": _TEXT,
            **_DRAWN,
            **_STORED,
        },
        needed=("drop",),
        choices={
            "method": ("angular", "influence", "fit", "loss", "last", "taylor", "trial"),
            "substitute": ("none", "replaceme", "refit", "merge"),
            "objective": ("squares", "cosine"),
            "heal": ("none", "sequential"),
            "dtype": _DTYPES,
        },
    ),
    "arrange": Surgery(
        {"blocks": _TEXT, "stack": _TEXT, **_STORED},
        needed=("blocks",),
        choices={"dtype": _DTYPES},
    ),
    "fold": Surgery(
        {
            "what": (str, list),
            "untie": _FLAG,
            "rotation": _TEXT,
            "data": _TEXT,
            "reference": _TEXT,
            **_DRAWN,
            **_STORED,
        },
        needed=("what",),
        choices={"rotation": ("hadamard", "random"), "dtype": _DTYPES},
    ),
    "heal": Surgery(
        {
            "teacher": _TEXT,
            "train": _TEXT,
            **_READ,
            "steps": _COUNT,
            "epochs": _NUMBER,
            "lr": _NUMBER,
            "batch_size": _COUNT,
            "gradient_accumulation": _COUNT,
            "gradient_checkpointing": _FLAG,
            "bf16": _FLAG,
            "ce": _NUMBER,
            "kl": _NUMBER,
            "hidden": _NUMBER,
            "temperature": _NUMBER,
            "lora_rank": _COUNT,
            "save_every": _COUNT,
            "resume": _FLAG,
            **_DRAWN,
            **_STORED,
        },
        needed=("teacher",),
        choices={"train": ("lora", "head+last3", "full"), "dtype": _DTYPES},
    ),
    "remove_ln": Surgery(
        {
            "finetune": _FLAG,
            "one_shot": _FLAG,
            **_READ,
            "other_data": _TEXT,
            "schedule": _TEXT,
            "sites": _TEXT,
            "export": _TEXT,
            "control": _FLAG,
            "teacher": _TEXT,
            "lr": _NUMBER,
            "batch_size": _COUNT,
            "gradient_accumulation": _COUNT,
            "gradient_checkpointing": _FLAG,
            "bf16": _FLAG,
            "save_every": _COUNT,
            "resume": _FLAG,
            "report_to": _TEXT,
            **_DRAWN,
            **_STORED,
        },
        choices={
            "export": ("graft", "stock", "partial"),
            "teacher": ("original", "control", "none"),
            "report_to": ("none", "tensorboard", "trackio"),
            "dtype": _DTYPES,
        },
    ),
}
