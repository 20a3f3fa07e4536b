"""normsurgery: post-training model surgery with proofs.

Every public name is imported when it is first used, so that `import normsurgery` costs nothing
and imports neither torch nor transformers.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from normsurgery.version import VERSION

if TYPE_CHECKING:
    from normsurgery.api.arrange import ArrangeResult as ArrangeResult
    from normsurgery.api.arrange import arrange as arrange
    from normsurgery.api.bench import BenchResult as BenchResult
    from normsurgery.api.bench import bench as bench
    from normsurgery.api.card import CardResult as CardResult
    from normsurgery.api.card import card as card
    from normsurgery.api.convert import ConvertResult as ConvertResult
    from normsurgery.api.convert import convert as convert
    from normsurgery.api.doctor import DoctorResult as DoctorResult
    from normsurgery.api.doctor import doctor as doctor
    from normsurgery.api.eval import EvalResult as EvalResult
    from normsurgery.api.eval import eval as eval
    from normsurgery.api.fold import FoldResult as FoldResult
    from normsurgery.api.fold import fold as fold
    from normsurgery.api.fold_bn import FoldBnResult as FoldBnResult
    from normsurgery.api.fold_bn import fold_bn as fold_bn
    from normsurgery.api.heal import HealResult as HealResult
    from normsurgery.api.heal import heal as heal
    from normsurgery.api.inspect import InspectResult as InspectResult
    from normsurgery.api.inspect import inspect as inspect
    from normsurgery.api.prune import PruneResult as PruneResult
    from normsurgery.api.prune import prune as prune
    from normsurgery.api.push import PushResult as PushResult
    from normsurgery.api.push import push as push
    from normsurgery.api.remove_ln import RemoveLnResult as RemoveLnResult
    from normsurgery.api.remove_ln import remove_ln as remove_ln
    from normsurgery.api.report import ReportResult as ReportResult
    from normsurgery.api.report import report as report
    from normsurgery.api.run import RunResult as RunResult
    from normsurgery.api.run import run as run
    from normsurgery.api.verify import VerifyResult as VerifyResult
    from normsurgery.api.verify import verify as verify
    from normsurgery.errors import CheckpointError as CheckpointError
    from normsurgery.errors import HubError as HubError
    from normsurgery.errors import ResourceError as ResourceError
    from normsurgery.errors import SurgeryError as SurgeryError
    from normsurgery.errors import UnsupportedModelError as UnsupportedModelError
    from normsurgery.errors import UsageError as UsageError
    from normsurgery.errors import VerificationError as VerificationError

__version__ = VERSION

_HOME_OF = {
    "ArrangeResult": "api.arrange",
    "BenchResult": "api.bench",
    "CardResult": "api.card",
    "CheckpointError": "errors",
    "ConvertResult": "api.convert",
    "DoctorResult": "api.doctor",
    "EvalResult": "api.eval",
    "FoldResult": "api.fold",
    "FoldBnResult": "api.fold_bn",
    "HealResult": "api.heal",
    "HubError": "errors",
    "InspectResult": "api.inspect",
    "PruneResult": "api.prune",
    "PushResult": "api.push",
    "RemoveLnResult": "api.remove_ln",
    "ReportResult": "api.report",
    "ResourceError": "errors",
    "RunResult": "api.run",
    "SurgeryError": "errors",
    "UnsupportedModelError": "errors",
    "UsageError": "errors",
    "VerificationError": "errors",
    "VerifyResult": "api.verify",
    "arrange": "api.arrange",
    "bench": "api.bench",
    "card": "api.card",
    "convert": "api.convert",
    "doctor": "api.doctor",
    "eval": "api.eval",
    "fold": "api.fold",
    "fold_bn": "api.fold_bn",
    "heal": "api.heal",
    "inspect": "api.inspect",
    "prune": "api.prune",
    "push": "api.push",
    "remove_ln": "api.remove_ln",
    "report": "api.report",
    "run": "api.run",
    "verify": "api.verify",
}


class _Package(ModuleType):
    """The package itself, in which a public function wins over a subpackage of the same name.

    Importing `normsurgery.verify.anything` makes Python set `normsurgery.verify` to the
    subpackage, which would hide the function; such an assignment is passed over.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
