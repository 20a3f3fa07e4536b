"""Verification: logits, loss and generation of two checkpoints, the noise floor, the verdict."""

from normsurgery.verify.compare import compare, judge
from normsurgery.verify.load import LoadReport
from normsurgery.verify.options import VerifyOptions
from normsurgery.verify.reference import ReferenceRun, run_reference
from normsurgery.verify.sources import ModelSource, check_comparable
from normsurgery.verify.verdict import Verification

__all__ = [
    "LoadReport",
    "ModelSource",
    "ReferenceRun",
    "Verification",
    "VerifyOptions",
    "check_comparable",
    "compare",
    "judge",
    "run_reference",
]
