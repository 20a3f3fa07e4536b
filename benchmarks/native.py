"""What every native mapping measures, from a tiny checkpoint with all parameters random.

For each family and each class that it can become: the largest output error of the proof on the
twin, over the outputs' standard deviation, in float64; the error of the saved float32 and bfloat16
files over the noise floor (3 allowed); whether greedy text with the cache agrees; what it costs.

    python benchmarks/native.py [FAMILY ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import normsurgery
from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.proof import prove
from normsurgery.checkpoint import open_checkpoint
from normsurgery.native.plan import NativePlan, native_plans

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.families import build_spec
from tests.native.families import FAMILIES


def main() -> None:
    parser = argparse.ArgumentParser(description="errors and costs of the native mappings")
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    families = parser.parse_args().families
    transformers.logging.set_verbosity_error()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'':20}{'becomes':30}{'float64':>9}{'float32':>9}{'bf16':>7}  {'text':6}{'added':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for family in families:
            build_spec(FAMILIES[family], Path(scratch, family, "float32"), dtype="float32")
            build_spec(FAMILIES[family], Path(scratch, family, "bfloat16"), dtype="bfloat16")
            _family(family, Path(scratch, family))


def _family(family: str, directory: Path) -> None:
    checkpoint = open_checkpoint(directory / "float32")
    plans = native_plans(checkpoint, examine(checkpoint))
    fitting = [plan for plan in plans if isinstance(plan, NativePlan)]
    for number, plan in enumerate(fitting):
        cells = f"{family:20}{plan.architecture:30}{_proved(plan):>9.1e}"
        # `convert` takes the first that fits; the others are proved on the twin only.
        cells += _saved(directory) if number == 0 else f"{'':24}"
        block = ", one block absorbs the final norm's β" if plan.absorbs else ""
        print(f"{cells}{plan.parameters_added:>8,}{block}", flush=True)


def _proved(plan: NativePlan) -> float:
    def operate(source: Any) -> Any:
        for step in plan.steps:
            source, _ = step(source)
        return source

    forms = {"native": lambda _: plan.model_class}
    proof = prove(plan.examination, operate, forms, bound=plan.bound, without=plan.lost)
    return max(proof.errors.values())


def _saved(directory: Path) -> str:
    ratios = []
    text = ""
    for dtype in ("float32", "bfloat16"):
        try:
            done = normsurgery.convert(
                directory / dtype, directory / f"{dtype}-native", target="native"
            )
        except normsurgery.SurgeryError as error:
            ratios.append(error.message.split(":")[0][:5])
            continue
        found = done.to_dict()["verification"]["native"]
        ratios.append(f"{_ratio(found):.2f}")
        same = found.get("generation_identical")
        text = text or ("–" if same is None else "same" if same else "DIFFERS")
    return f"{ratios[0]:>9}{ratios[1]:>7}  {text:6}"


def _ratio(found: dict[str, Any]) -> float:
    main = found.get("logits") or next(iter(found["outputs"].values()))
    return float(main["ratio"])


if __name__ == "__main__":
    main()
