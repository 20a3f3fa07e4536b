"""One process of a removal in several: `torchrun … worker.py MODEL WORK BATCH ACCUMULATION`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.train.removal.tools import options, quick, run
from tests.train.tools import rows


def main(model: Path, work: Path, teacher: Path, accumulation: int) -> None:
    """Train, and say each step's losses in WORK/losses.json."""
    schedule = quick(10, kl=(0.0, 1.0), anneal=1, learning_rate=1e-4, min_learning_rate=1e-5)
    made = run(
        model, work, schedule=schedule, teacher=teacher, text=rows(24),
        chosen=options(gradient_accumulation=accumulation),
    )  # fmt: skip
    if made.main:
        sigmas = {name: one.ordinary for name, one in made.removal.sigmas().items()}
        document = {"loss": made.loss, "ce": made.ce, "final": made.final, "sigmas": sigmas}
        (work / "losses.json").write_text(json.dumps(document))


if __name__ == "__main__":
    model, work, teacher, accumulation = sys.argv[1:]
    main(Path(model), Path(work), Path(teacher), int(accumulation))
