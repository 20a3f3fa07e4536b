"""The names that people import, pinned; and that importing them costs nothing."""

import importlib
import json
import subprocess
import sys

import pytest

import normsurgery
from tests.cli.invoke import environment

FUNCTIONS = [
    *[
        "arrange",
        "bench",
        "card",
        "convert",
        "doctor",
        "eval",
        "fold",
        "fold_bn",
        "heal",
        "inspect",
        "prune",
        "push",
        "remove_ln",
        "report",
        "run",
        "verify",
    ],
]
NAMES = [
    *[
        "CardResult",
        "CheckpointError",
        "ConvertResult",
        "DoctorResult",
        "HubError",
        "InspectResult",
        "ResourceError",
    ],
    *["RunResult", "SurgeryError", "UnsupportedModelError", "UsageError", "VerificationError"],
    *["ArrangeResult", "FoldBnResult", "FoldResult", "HealResult", "PruneResult"],
    *["BenchResult", "EvalResult", "PushResult", "ReportResult"],
    *["RemoveLnResult", "VerifyResult"],
    *FUNCTIONS,
]


def in_a_fresh_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_exported_names_are_these():
    assert sorted(normsurgery._HOME_OF) == sorted(NAMES)
    assert set(NAMES) <= set(dir(normsurgery))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves(name):
    assert getattr(normsurgery, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'conver'"):
        normsurgery.conver  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_anything_else_heavy():
    code = """
import json, sys
import normsurgery
from normsurgery import SurgeryError, run
names = ("torch", "transformers", "numpy", "rich", "typer", "yaml")
print(json.dumps([name for name in names if name in sys.modules]))
"""
    assert in_a_fresh_python(code) == []


def test_the_function_verify_wins_over_the_package_of_that_name():
    code = """
import json
import normsurgery.verify.verdict
import normsurgery
from normsurgery.verify.verdict import CONTRACTS
print(json.dumps([callable(normsurgery.verify), len(CONTRACTS)]))
"""
    assert in_a_fresh_python(code) == [True, 4]


def test_the_subpackage_can_still_be_imported_and_replaced_functions_stay():
    module = importlib.import_module("normsurgery.verify.verdict")
    assert module.CONTRACTS[0] == "exact"
    assert callable(normsurgery.verify)


def test_errors_share_one_base():
    for name in NAMES:
        if name.endswith("Error"):
            assert issubclass(getattr(normsurgery, name), normsurgery.SurgeryError)
