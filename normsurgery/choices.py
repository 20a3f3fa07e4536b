"""The words that options take, for the command line and for recipes; nothing is imported for it."""

from __future__ import annotations

from typing import Literal, TypeAlias

DTypeName: TypeAlias = Literal["float64", "float32", "bfloat16", "float16"]
ToName: TypeAlias = Literal["rmsnorm", "crmsnorm"]
TargetName: TypeAlias = Literal["auto", "native", "stock", "graft"]
TrainName: TypeAlias = Literal["lora", "head+last3", "full"]
MethodName: TypeAlias = Literal["angular", "influence", "fit", "loss", "last", "taylor", "trial"]
SubstituteName: TypeAlias = Literal["none", "replaceme", "refit", "merge"]
ObjectiveName: TypeAlias = Literal["squares", "cosine"]
RotationName: TypeAlias = Literal["hadamard", "random"]
HealName: TypeAlias = Literal["none", "sequential"]
BatchNormFormName: TypeAlias = Literal["keep", "native", "graft"]
ContractName: TypeAlias = Literal["exact", "fitted", "lossy", "trained"]
ExportName: TypeAlias = Literal["graft", "stock", "partial"]
TeacherName: TypeAlias = Literal["original", "control", "none"]
ReportName: TypeAlias = Literal["none", "tensorboard", "trackio"]

# The order in which folds compose, whatever order they are asked for in.
FOLD_ORDER = (
    "weight-norm",
    "image-norm",
    "layerscale",
    "mup",
    "query-scale",
    "norm",  # before the biases: β adds to them
    "value-bias",
    "key-bias",
    "rotate",
)
