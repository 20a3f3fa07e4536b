"""What the proof on the twin measures, family by family and form by form.

For every configuration of `tests/families.py` that converts: the largest difference of any output
from the source's, over the outputs' standard deviation, in float64 (allowed: 1e-9). A dash is a
refusal; the reasons follow the table.

    python benchmarks/proofs.py [FAMILY ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from normsurgery.api.operation import Request
from normsurgery.api.rmsnorm import plan_operation
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.families import EXACT, build

REQUESTS = {
    "rmsnorm": Request(target="stock"),
    "--fold-affine": Request(target="stock", fold_affine=True),
    "--untie": Request(target="stock", untie=True),
    "--target graft": Request(target="graft"),
    "crmsnorm": Request(to="crmsnorm"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="errors of the proofs on the twins")
    parser.add_argument("families", nargs="*", default=list(EXACT))
    families = parser.parse_args().families
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'':22}" + "".join(f"{name:>16}" for name in REQUESTS))
    worst = dict.fromkeys(REQUESTS, 0.0)
    proved = dict.fromkeys(REQUESTS, 0)
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in families:
            build(family, Path(scratch, family))
            checkpoint = open_checkpoint(Path(scratch, family))
            cells = []
            for name, request in REQUESTS.items():
                try:
                    error = max(plan_operation(checkpoint, request).prove().errors.values())
                except UnsupportedModelError as refusal:
                    reasons.append(f"{family}, {name}: {refusal.message}")
                    cells.append("–")
                    continue
                worst[name], proved[name] = max(worst[name], error), proved[name] + 1
                cells.append(f"{error:.1e}")
            print(f"{family:22}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
    print(f"{'largest':22}" + "".join(f"{error:>16.1e}" for error in worst.values()))
    print(f"{'proved':22}" + "".join(f"{f'{n} of {len(families)}':>16}" for n in proved.values()))
    print("\n".join(reasons))


if __name__ == "__main__":
    main()
