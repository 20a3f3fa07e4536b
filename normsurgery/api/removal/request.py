"""What was asked of `remove-ln`, checked before anything is opened."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from normsurgery.anatomy.norm_paths import DEFAULT_SITES, SITES
from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint, did_you_mean

Export = Literal["graft", "stock", "partial"]
TeacherName = Literal["original", "control", "none"]
ReportTo = Literal["none", "tensorboard", "trackio"]
FINETUNE_TOKENS = 3_000_000
CALIBRATION_TOKENS = 50_000
# What decides the result and stands in the command that makes it again.
_COMMAND = (
    "data", "text_column", "other_data", "tokens", "max_length", "schedule", "export", "control",
    "teacher", "lr", "batch_size", "gradient_accumulation", "bf16", "dtype", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class RemovalRequest:
    """The options of `remove_ln`, by its names. sites: words of SITES.

    Raises UsageError for options that do not fit together.
    """

    finetune: bool = False
    one_shot: bool = False
    data: str | None = None
    text_column: str = "text"
    other_data: str | None = None
    tokens: int | None = None
    max_length: int | None = None
    schedule: str = "auto"
    sites: tuple[str, ...] = DEFAULT_SITES
    export: Export = "graft"
    control: bool | None = None
    teacher: TeacherName | None = None
    lr: float | None = None
    batch_size: int = 16
    gradient_accumulation: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    save_every: int | None = None
    resume: bool = False
    report_to: ReportTo = "none"
    dtype: str | None = None
    verify: bool = True
    device: str = "auto"
    seed: int = 0
    trust_remote_code: bool = False
    dry_run: bool = False

    @staticmethod
    def words(sites: str | Sequence[str]) -> tuple[str, ...]:
        """`mlp,final` or a list of such words, without doubles, in the order of SITES.

        Raises UsageError for another word, and where there is none.
        """
        given = [word.strip() for word in sites.split(",")] if isinstance(sites, str) else sites
        wrong = [word for word in given if word not in SITES]
        if wrong or not given:
            said = repr(wrong[0]) if wrong else "no word"
            hint = f"{did_you_mean(wrong[0] if wrong else '', SITES)}some of: {','.join(SITES)}"
            raise UsageError(f"--sites: {said} names no norms", hint)
        return tuple(word for word in SITES if word in given)

    def __post_init__(self) -> None:
        self._check_words()
        self._check_numbers()
        if self.finetune and self.one_shot:
            raise UsageError(
                "--finetune and --one-shot are two ways to remove norms", "leave one of them out"
            )
        if self.resume and not self.finetune:
            raise UsageError(
                "--resume goes on with a training, and none was asked for", "--finetune"
            )
        missing = [word for word in DEFAULT_SITES if word not in self.sites]
        if missing and self.export != "partial":
            raise UsageError(
                f"--export {self.export} has no norm left that reads the stream, and --sites "
                f"leaves out {', '.join(missing)}",
                "--export partial",
            )

    def _check_words(self) -> None:
        for name, words in (
            ("export", get_args(Export)),
            ("report_to", get_args(ReportTo)),
            ("teacher", (None, *get_args(TeacherName))),
        ):
            value = getattr(self, name)
            if value not in words:
                option = name.replace("_", "-")
                hint = choices_hint(str(value), [word for word in words if word])
                raise UsageError(f"--{option} {value}: no such choice", hint)
        if self.teacher == "control" and self.control is False:
            raise UsageError("--teacher control needs the control", "leave --no-control out")

    def _check_numbers(self) -> None:
        for name in ("batch_size", "gradient_accumulation", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is below 1", "give a count")
        if self.tokens is not None and self.tokens < 2:
            raise UsageError(f"--tokens {self.tokens} is too few", "3000000 is usual")
        if self.lr is not None and not 0.0 < self.lr < 1.0:
            raise UsageError(f"a learning rate of {self.lr} is not in (0, 1)", "6e-4 is usual")

    @property
    def contract(self) -> str:
        return "lossy" if self.one_shot else "trained"

    @property
    def text(self) -> dict[str, Any]:
        """The options that say which text, as `load_domains` takes them, less the tokens."""
        return {
            "data": self.data, "text_column": self.text_column, "other_data": self.other_data,
            "max_length": self.max_length,
            "seed": self.seed, "trust_remote_code": self.trust_remote_code,
        }  # fmt: skip

    def step(self) -> dict[str, Any]:
        """What decides the result, as a recipe's step has it: no local path, no default."""
        chosen: dict[str, Any] = {"surgery": "remove_ln"}
        chosen |= {name: True for name in ("finetune", "one_shot") if getattr(self, name)}
        if self.sites != DEFAULT_SITES:
            chosen["sites"] = ",".join(self.sites)
        defaults = {one.name: one.default for one in fields(self)}
        given = {name: getattr(self, name) for name in _COMMAND}
        chosen |= {name: value for name, value in given.items() if value != defaults[name]}
        for name in ("data", "other_data", "schedule"):
            if name in chosen:
                chosen[name] = without_path(chosen[name])
        return chosen

    def command(self, model: str) -> str:
        """The command line that makes the result again, with OUT for the output."""
        words = ["normsurgery", "remove-ln", model, "-o", "OUT"]
        for name, value in self.step().items():
            option = f"--{name.replace('_', '-')}"
            if name == "surgery":
                continue
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            else:
                words += [option, str(value)]
        return shlex.join(words)


def without_path(given: str) -> str:
    """A file by its name alone: papers hold no local path."""
    return Path(given).name if Path(given).is_file() else given
