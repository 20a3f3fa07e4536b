"""Load the models beside each other, measure every cell of the grid in turns."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from normsurgery.bench.loading import Loader, load_figures
from normsurgery.bench.measures import cell_figures
from normsurgery.bench.memory import in_a_fresh_process
from normsurgery.bench.subject import Cell, Subject
from normsurgery.bench.timing import Clock, interleaved
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress
from normsurgery.verify.load import Loaded
from normsurgery.verify.sources import ModelSource, dtype_name

MIN_NEW_TOKENS = 2  # the first belongs to the prefill


@dataclass(frozen=True)
class Grid:
    """What is measured. compile: none or eager+compiled. data: samples of images or sounds."""

    batch: tuple[int, ...]
    length: tuple[int, ...]
    new_tokens: int
    repeats: int
    warmup: int = 2
    compile: str = "none"
    memory: bool = True
    threads: int | None = None
    seed: int = 0
    data: Path | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        return ("eager", "compiled") if self.compile == "eager+compiled" else ("eager",)


@dataclass
class Session:
    """models: loaded, the first being what the others are compared with."""

    grid: Grid
    dtype: torch.dtype
    device: torch.device
    progress: Progress
    clock: Clock = time.perf_counter
    memory_of: Callable[[dict[str, Any]], dict[str, Any]] = in_a_fresh_process
    subjects: list[Subject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, sources: Sequence[ModelSource], scratch: Path) -> dict[str, Any]:
        """The document's `figures` (a model each), `cells`, `settings` and `notes`.

        scratch: a directory for a model that does not fit. ResourceError where the models do not
        fit beside each other; UsageError where they cannot be compared.
        """
        memory = [self._memory(source) for source in sources] if self.grid.memory else []
        loader = Loader(self.dtype, self.device, scratch, self.clock)
        with ExitStack() as stack, _threads(self.grid.threads):
            loads = loader.times(sources)
            for i, source in enumerate(sources):
                loaded, seconds = loader.load(stack, source)
                loads[i] = loads[i] or [seconds]
                self._take(source, loaded)
            _check_alike(self.subjects)
            cells = [self._cell(mode, cell) for mode in self.grid.modes for cell in self._cells()]
            return {
                "figures": [
                    {
                        "parameters": subject.parameters,
                        "parameter_bytes": subject.parameter_bytes,
                        "load": load,
                        "memory": memory[i] if memory else None,
                    }
                    for i, (subject, load) in enumerate(
                        zip(self.subjects, load_figures(loads, seed=self.grid.seed), strict=True)
                    )
                ],
                "cells": cells,
                "settings": self._settings(),
                "notes": [*self.notes, *(n for subject in self.subjects for n in subject.notes)],
            }

    def _take(self, source: ModelSource, loaded: Loaded) -> None:
        """One more model to measure; a remark where its files do not fit its class."""
        name = source.directory.name
        if not loaded.report.clean:
            self.notes.append(f"{name}: {loaded.report.sentence()}")
        subject = Subject(
            name, loaded.model, self.dtype, self.device, source.directory, seed=self.grid.seed,
            data=self.grid.data, trust_remote_code=source.trust_remote_code,
        )  # fmt: skip
        subject.prepare()
        self.subjects.append(subject)

    def _cells(self) -> list[Cell]:
        first = self.subjects[0]
        return grid_cells(self.grid, reads_text=first.reads_text, writes=first.writes)

    def _cell(self, mode: str, cell: Cell) -> dict[str, Any]:
        """Every model on one cell, in turns."""
        compiled = mode == "compiled"
        runners = {
            str(i): subject.runner(cell, self.clock, compiled=compiled)
            for i, subject in enumerate(self.subjects)
        }
        rounds = self.grid.warmup + self.grid.repeats
        at = f"{mode}, batch {cell.batch}" + (f", {cell.length} tokens" if cell.length else "")
        with self.progress.task(at, rounds * len(runners), "steps") as advance:
            runs = interleaved(
                runners, repeats=self.grid.repeats, warmup=self.grid.warmup, advance=advance
            )
        flops = [subject.flops(cell) for subject in self.subjects]
        return {**cell_figures(cell, runs, mode=mode, seed=self.grid.seed), "flops": flops}

    def _memory(self, source: ModelSource) -> dict[str, Any]:
        """Of the largest cell, in a process of its own."""
        grid = self.grid
        largest = Cell(max(grid.batch), max(grid.length), grid.new_tokens)
        with self.progress.task("memory", None, "steps"):
            return self.memory_of({
                "directory": str(source.directory),
                "trust_remote_code": source.trust_remote_code,
                "allow_pickle": source.allow_pickle,
                "dtype": dtype_name(self.dtype),
                "device": str(self.device),
                "threads": grid.threads,
                "seed": grid.seed,
                "data": None if grid.data is None else str(grid.data),
                "cell": dataclasses.asdict(largest),
            })  # fmt: skip

    def _settings(self) -> dict[str, Any]:
        first = self.subjects[0]
        return {
            "dtype": dtype_name(self.dtype),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "repeats": self.grid.repeats,
            "warmup": self.grid.warmup,
            "new_tokens": self.grid.new_tokens if first.writes else 0,
            "seed": self.grid.seed,
            "data": "made up" if self.grid.data is None else self.grid.data.name,
            "torch": torch.__version__,
        }


def grid_cells(grid: Grid, *, reads_text: bool, writes: bool) -> list[Cell]:
    """Batch × length; batches alone where the input is no text."""
    new = grid.new_tokens if writes else 0
    lengths: tuple[int | None, ...] = grid.length if reads_text else (None,)
    return [Cell(batch, length, new) for batch in grid.batch for length in lengths]


def check_grid(grid: Grid) -> None:
    """UsageError where a number of the grid makes no sense."""
    if not grid.batch or not grid.length or min(*grid.batch, *grid.length, grid.repeats) < 1:
        raise UsageError("batch, length and repeats count from 1", "such as --batch 1,4")
    if grid.new_tokens < MIN_NEW_TOKENS:
        raise UsageError(
            f"{grid.new_tokens} new tokens leave nothing after the first, which is prefill's",
            f"--new-tokens {MIN_NEW_TOKENS} or more",
        )
    if grid.threads is not None and grid.threads < 1:
        raise UsageError(f"{grid.threads} threads", "--threads 1 or more")
    if grid.compile not in ("none", "eager+compiled"):
        raise UsageError(f"unknown way to compile {grid.compile!r}", "none or eager+compiled")


def _check_alike(subjects: Sequence[Subject]) -> None:
    """UsageError where one reads or writes something else than the first."""
    first = subjects[0]
    for other in subjects[1:]:
        inputs = [getattr(s.model, "main_input_name", None) for s in (first, other)]
        if inputs[0] != inputs[1]:
            raise UsageError(
                f"{first.name} reads {inputs[0]}, {other.name} {inputs[1]}",
                "bench models of one modality",
            )
        if first.writes != other.writes:
            writer, silent = (first, other) if first.writes else (other, first)
            raise UsageError(
                f"{writer.name} generates text, {silent.name} does not", "bench models of one task"
            )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
