"""`python -m normsurgery.anatomy.census`: which families convert, with which error, and why not.

For every family of the installed transformers: build a tiny random model, save it, convert it,
prove the conversion in float64 on the twin and on the saved files. Prints a table and a summary.

    python -m normsurgery.anatomy.census [FAMILY ...] [--csv FILE] [--jobs N] [--timeout SECONDS]
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

from normsurgery.anatomy.census.architectures import families
from normsurgery.anatomy.census.pool import run_each
from normsurgery.anatomy.census.trial import FAILED, Row, try_family


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m normsurgery.anatomy.census")
    parser.add_argument("families", nargs="*", help="default: all with a LayerNorm in their code")
    parser.add_argument("--csv", help="write the rows to this file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for a family")
    options = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    named, shipped = families()
    chosen = options.families or named
    rows = []
    for outcome in run_each(try_family, chosen, jobs=options.jobs, timeout=options.timeout):
        row = outcome.result or Row(outcome.item, FAILED, reason=outcome.trouble)
        rows.append(replace(row, seconds=round(outcome.seconds, 1)))
        print(_line(rows[-1]), flush=True)
    rows.sort(key=lambda row: row.family)
    if options.csv:
        with Path(options.csv).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: "
          f"{len(named)} of {shipped} families have a LayerNorm in their code")  # fmt: skip
    for verdict, count in Counter(row.verdict for row in rows).most_common():
        print(f"{verdict:14}{count:5}")


def _line(row: Row) -> str:
    error = f"{row.error:.1e}" if row.error is not None else ""
    what = f"{row.architecture} {row.part}".strip()
    return f"{row.family:28} {row.verdict:12} {row.form:6} {error:8} {what:44} {row.reason}"


if __name__ == "__main__":
    main()
