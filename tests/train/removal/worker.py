"""One process of a removal in several: `torchrun … worker.py MODEL WORK BATCH ACCUMULATION`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.train.removal.tools import options, quick, run
from tests.train.tools import rows


def main(model: Path, work: Path, teacher: Path, accumulation: int) -> None:
    """Train, and say each step's losses in WORK/losses.json."""
    made = run(
        model, work, schedule=quick(10, kl=(0.0, 1.0), anneal=1), teacher=teacher, text=rows(24),
        chosen=options(gradient_accumulation=accumulation),
    )  # fmt: skip
    if made.main:
        sigmas = {name: one.ordinary for name, one in made.removal.sigmas().items()}
        document = {"loss": made.loss, "ce": made.ce, "final": made.final, "sigmas": sigmas}
        (work / "losses.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
