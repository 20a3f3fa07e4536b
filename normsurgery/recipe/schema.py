"""What a recipe may say, as pydantic models: keys, types, choices, bounds.

Only what reads recipes imports this: the models take a tenth of a second. What each key means, and
its default, the commands say (`recipe.editor`); null always means the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from normsurgery import choices as c

Count: TypeAlias = Annotated[int, Field(ge=1)]
Tokens: TypeAlias = Annotated[int, Field(ge=2)]  # one predicts nothing
Weight: TypeAlias = Annotated[float, Field(ge=0)]


class Keys(BaseModel):
    """Keys that a mapping may have, and no other; `1` is no `true`, and `yes` no text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None or k not in cls.model_fields}

    @classmethod
    def in_order(cls) -> tuple[str, ...]:
        """The keys: its own first, then those that it shares."""
        lines = [inspect.get_annotations(model) for model in cls.__mro__]
        return tuple(dict.fromkeys(k for line in lines for k in line if k in cls.model_fields))


class Step(Keys):
    """One surgery. One without a key `data` has a text to verify on instead, under `verify`."""

    surgery: str
    dtype: c.DTypeName | None = None
    max_shard_size: str | int | None = None
    allow_nonfinite: bool | None = None


class Reading(Step):
    """A surgery that reads text, and measures what can be drawn."""

    data: str | None = None
    text_column: str | None = None
    tokens: Tokens | None = None
    max_length: Tokens | None = None
    plots: bool | None = None


class Training(Reading):
    """A surgery that trains."""

    lr: float | None = None
    batch_size: Count | None = None
    gradient_accumulation: Count | None = None
    gradient_checkpointing: bool | None = None
    bf16: bool | None = None
    save_every: Count | None = None
    resume: bool | None = None


class Convert(Step):
    surgery: Literal["convert"]
    to: c.ToName | None = None
    target: c.TargetName | None = None
    fold_affine: bool | None = None
    untie: bool | None = None
    part: str | None = None


class FoldBN(Step):
    surgery: Literal["fold_bn"]
    form: c.BatchNormFormName | None = None
    example: str | None = None


class Prune(Reading):
    surgery: Literal["prune"]
    drop: str | int
    stack: str | None = None
    method: c.MethodName | None = None
    iterative: bool | None = None
    explain: bool | None = None
    substitute: c.SubstituteName | None = None
    objective: c.ObjectiveName | None = None
    heal: c.HealName | None = None
    other_data: str | None = None


class Arrange(Step):
    surgery: Literal["arrange"]
    blocks: str
    stack: str | None = None


class Fold(Step):
    surgery: Literal["fold"]
    what: str | list[str]
    untie: bool | None = None
    rotation: c.RotationName | None = None
    data: str | None = None
    reference: str | None = None
    plots: bool | None = None


class Heal(Training):
    """A first step needs `teacher`; for a later one it is the recipe's source if nothing else."""

    surgery: Literal["heal"]
    teacher: str | None = None
    train: c.TrainName | None = None
    steps: Count | None = None
    epochs: Weight | None = None
    ce: Weight | None = None
    kl: Weight | None = None
    hidden: Weight | None = None
    temperature: float | None = None
    lora_rank: Count | None = None


class RemoveLN(Training):
    surgery: Literal["remove_ln"]
    finetune: bool | None = None
    one_shot: bool | None = None
    other_data: str | None = None
    schedule: str | None = None
    sites: str | None = None
    export: c.ExportName | None = None
    control: bool | None = None
    teacher: c.TeacherName | None = None
    report_to: c.ReportName | None = None


class Verify(Keys):
    """How saved files are verified."""

    data: str | None = None
    keep_failed: bool | None = None


class Push(Keys):
    """Where the output goes once it stands, as the options of `push` say it."""

    to: str
    private: bool | None = None
    create_pr: bool | None = None
    revision: str | None = None
    message: str | None = None
    unverified: bool | None = None
    i_have_permission: bool | None = None


def _form(value: Any) -> str:
    return "keys" if isinstance(value, dict | Keys) else "short"


Form = Discriminator(_form)
AnyStep: TypeAlias = Convert | FoldBN | Prune | Arrange | Fold | Heal | RemoveLN


class RecipeKeys(Keys):
    """A whole recipe."""

    source: str
    steps: list[Annotated[AnyStep, Field(discriminator="surgery")]] = Field(min_length=1)
    verify: (
        Annotated[Annotated[bool, Tag("short")] | Annotated[Verify, Tag("keys")], Form] | None
    ) = None
    output: str
    push: Annotated[Annotated[str, Tag("short")] | Annotated[Push, Tag("keys")], Form] | None = None
    overwrite: bool | None = None
    device: str | None = None
    seed: int | None = None
    trust_remote_code: bool | None = None
    allow_pickle: bool | None = None


SURGERIES: Mapping[str, type[Step]] = {
    get_args(step.model_fields["surgery"].annotation)[0]: step for step in get_args(AnyStep)
}


def options_of(surgery: str) -> tuple[str, ...]:
    """The keys that a step of this surgery takes beside `surgery`."""
    return tuple(key for key in SURGERIES[surgery].in_order() if key != "surgery")
