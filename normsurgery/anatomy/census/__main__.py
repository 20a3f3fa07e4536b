"""`python -m normsurgery.anatomy.census`: which families convert, with which error, and why not.

For every family of the installed transformers: build a tiny random model, save it, convert it,
prove the conversion in float64 on the twin and on the saved files. Prints a table and a summary.
With --batch-norm: the same for every configuration that has a BatchNorm, its norms folded.

    python -m normsurgery.anatomy.census [--batch-norm] [NAME ...] [--csv FILE] [--jobs N]
        [--timeout SECONDS]
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.census.architectures import families
from normsurgery.anatomy.census.batch_norm_trial import BatchNormRow, try_configuration
from normsurgery.anatomy.census.batch_norms import CONFIGURATIONS
from normsurgery.anatomy.census.pool import run_each
from normsurgery.anatomy.census.trial import FAILED, Row, try_family


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m normsurgery.anatomy.census")
    parser.add_argument("names", nargs="*", help="families; default: all with such a norm")
    parser.add_argument("--batch-norm", action="store_true", help="fold BatchNorms instead")
    parser.add_argument("--csv", help="write the rows to this file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for each")
    options = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = _batch_norm_rows(options) if options.batch_norm else _layer_norm_rows(options)
    if options.csv:
        _write(Path(options.csv), rows)
    for verdict, count in Counter(row.verdict for row in rows).most_common():
        print(f"{verdict:14}{count:5}")


def _layer_norm_rows(options: argparse.Namespace) -> list[Row]:
    named, shipped = families()
    rows = []
    outcomes = run_each(
        try_family, options.names or named, jobs=options.jobs, timeout=options.timeout
    )
    for outcome in outcomes:
        row = outcome.result or Row(outcome.item, FAILED, reason=outcome.trouble)
        rows.append(replace(row, seconds=round(outcome.seconds, 1)))
        print(_line(rows[-1]), flush=True)
    print(f"{_versions()}: {len(named)} of {shipped} families have a LayerNorm in their code")
    return sorted(rows, key=lambda row: row.family)


def _batch_norm_rows(options: argparse.Namespace) -> list[BatchNormRow]:
    # Most of what the forked trials import, once for all.
    import transformers.models.detr.modeling_detr  # noqa: F401

    import normsurgery.surgery.batchnorm.fold  # noqa: F401

    chosen = [c for c in CONFIGURATIONS if not options.names or c.family in options.names]
    rows = []
    for outcome in run_each(try_configuration, chosen, jobs=options.jobs, timeout=options.timeout):
        row = outcome.result or BatchNormRow(outcome.item.name, verdict=FAILED)
        if outcome.trouble:
            row = replace(row, verdict=FAILED, reason=outcome.trouble)
        rows.append(replace(row, seconds=round(outcome.seconds, 1)))
        print(_batch_norm_line(rows[-1]), flush=True)
        if options.csv:  # what there is so far, should the rest be cut short
            _write(Path(options.csv), sorted(rows, key=lambda row: row.configuration))
    kinds = ("norms", "producer", "consumer", "branch", "stays", "dead")
    totals = ", ".join(f"{sum(getattr(row, kind) for row in rows)} {kind}" for kind in kinds)
    print(f"{_versions()}: {len(rows)} configurations, {totals}")
    return sorted(rows, key=lambda row: row.configuration)


def _write(path: Path, rows: Sequence[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _versions() -> str:
    import torch
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def _batch_norm_line(row: BatchNormRow) -> str:
    error = f"{row.error:.1e}" if row.error is not None else ""
    control = f"{row.control:.0e}" if row.control is not None else ""
    counts = f"{row.folds}/{row.norms}"
    name = f"{row.configuration:68} {row.verdict:10}"
    return f"{name} {counts:8} {error:8} {control:6} {row.reason}"


def _line(row: Row) -> str:
    error = f"{row.error:.1e}" if row.error is not None else ""
    what = f"{row.architecture} {row.part}".strip()
    return f"{row.family:28} {row.verdict:12} {row.form:6} {error:8} {what:44} {row.reason}"


if __name__ == "__main__":
    main()
