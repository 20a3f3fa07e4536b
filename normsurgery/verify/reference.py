"""Run the reference once, in every precision that judging needs.

Three precisions: the dtype that is compared (the storage dtype unless asked otherwise); the narrow
one whose rounding sets the noise floor (the narrower of compared and stored); and the truth
(float64 for float32 files, float32 for lower ones, float64 there too on request). Where two of them
are the same, the model runs once.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from normsurgery.anatomy.float64 import Float64
from normsurgery.errors import CheckpointError, SurgeryError, UsageError
from normsurgery.nearest import did_you_mean
from normsurgery.report.progress import Advance, Progress, Silent, Unit
from normsurgery.verify.figures import SpreadGatherer
from normsurgery.verify.floor import FloorGatherer, scaled
from normsurgery.verify.inputs import Batch, Padding, Plan, plan_inputs
from normsurgery.verify.layout import chosen_layout
from normsurgery.verify.load import LoadReport, load_model
from normsurgery.verify.options import VerifyOptions
from normsurgery.verify.run import (
    CastWatch,
    Generation,
    Rows,
    RowStore,
    exact_arithmetic,
    forward,
    generate,
)
from normsurgery.verify.sources import ModelSource, dtype_name, dtype_named, stored_dtype
from normsurgery.verify.verdict import Parted

# First-order rounding errors scale with the unit roundoff: bfloat16's is 2^-8, float32's 2^-24.
_BF16_TO_F32 = 2.0**-16
_LOADING = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError)
_OFFLOADED_STEPS = 4  # every step reads the offloaded blocks from disk again


@dataclass
class ReferenceRun:
    """The reference's answers, to judge any number of candidates against.

    Large outputs lie in files under `scratch`, which goes with this object.
    floors: the reference's own error per output; None for float64 files.
    """

    source: ModelSource
    options: VerifyOptions
    device: torch.device
    scratch: Path
    dtype: torch.dtype
    truth_dtype: torch.dtype
    plan: Plan
    truth: RowStore
    measured: RowStore
    stds: dict[str, float]
    floors: dict[str, Parted] | None
    load_report: LoadReport
    generation: Generation | None
    steps: int
    casts: frozenset[str]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)


def run_reference(
    source: ModelSource, options: VerifyOptions, *, progress: Progress | None = None
) -> ReferenceRun:
    """The reference's answers in all the precisions that judging needs.

    Raises CheckpointError where it does not load, ResourceError where it cannot be offloaded.
    """
    device = chosen_device(options.device)
    scratch = Path(tempfile.mkdtemp(prefix="normsurgery-verify-"))
    try:
        with exact_arithmetic():
            return _Runner(source, options, device, scratch, progress or Silent()).run()
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def chosen_device(name: str) -> torch.device:
    """The device of that name; auto is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        meant = did_you_mean(name, ("auto", "cpu", "cuda"))
        raise UsageError(f"unknown device {name!r}", f"{meant}auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"no CUDA device for {name!r}",
            "--device cpu; normsurgery doctor shows what torch finds",
        )
    return device


@dataclass
class _Runner:
    source: ModelSource
    options: VerifyOptions
    device: torch.device
    scratch: Path
    progress: Progress
    plan: Plan | None = None
    layout: int = 0
    report: LoadReport = field(default_factory=LoadReport)
    generation: Generation | None = None
    steps: int = 0
    casts: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)

    def run(self) -> ReferenceRun:
        stored = stored_dtype(self.source.directory)
        dtype = stored if self.options.dtype is None else dtype_named(self.options.dtype)
        narrow = dtype if dtype.itemsize < stored.itemsize else stored
        if narrow.itemsize >= 4 or self.options.against_float64 or dtype is torch.float64:
            truth = self._float64_truth(dtype, narrow)
            if truth is not None:
                return self._finish(dtype, narrow, torch.float64, truth)
            dtype = torch.float32 if dtype is torch.float64 else dtype
            narrow = torch.float32 if narrow is torch.float64 else narrow
        truth = self._pass(torch.float32, "truth", narrow, generates=dtype is torch.float32)
        return self._finish(dtype, narrow, torch.float32, truth)

    def _float64_truth(self, dtype: torch.dtype, narrow: torch.dtype) -> RowStore | None:
        """None, with a note, where the model's code cannot run in float64.

        Code that casts to float32 by hand, and fails then, is run with these casts answered in
        float64; a candidate that is to be run in float64 gets no such help, nor its reference.
        """
        modes: list[contextlib.AbstractContextManager[Any]] = [contextlib.nullcontext()]
        modes += [] if dtype is torch.float64 else [Float64()]
        reason = ""
        for mode in modes:
            try:
                with mode:
                    return self._pass(
                        torch.float64, "truth", narrow, generates=dtype is torch.float64
                    )
            except SurgeryError:
                raise
            except (RuntimeError, TypeError, ValueError) as error:
                reason = reason or _line(error)
        self.notes.append(f"held to float32: the reference cannot run in float64 ({reason})")
        return None

    def _finish(
        self, dtype: torch.dtype, narrow: torch.dtype, truth_dtype: torch.dtype, truth: RowStore
    ) -> ReferenceRun:
        measured = truth
        floors: dict[str, Parted] | None = None
        if narrow is not truth_dtype:
            gather = FloorGatherer(truth)
            keep = dtype is narrow
            store = self._pass(narrow, "noise floor", narrow, keeps=keep, sink=gather,
                               generates=keep)  # fmt: skip
            floors = gather.result()
            measured = store if keep else measured
        elif narrow is torch.float32:
            gather = FloorGatherer(truth)
            self._pass(torch.bfloat16, "noise floor", narrow, keeps=False, sink=gather)
            floors = {name: scaled(part, _BF16_TO_F32) for name, part in gather.result().items()}
            self.notes.append("the noise floor is bfloat16's, scaled to float32's precision")
        if dtype not in (narrow, truth_dtype):
            measured = self._pass(dtype, "reference", narrow, generates=True)
        assert self.plan is not None  # every pass makes it
        stds = self._stds(truth)
        return ReferenceRun(
            self.source, self.options, self.device, self.scratch, dtype,
            truth_dtype, self.plan, truth, measured, stds, floors, self.report,
            self.generation, self.steps, self.casts, (*self.plan.notes, *self.notes),
        )  # fmt: skip

    def _stds(self, store: RowStore) -> dict[str, float]:
        """Standard deviations; CheckpointError where an output has no finite value at all."""
        spreads = {name: SpreadGatherer() for name in store[0]}
        for index in range(len(store)):
            for name, rows in store[index].items():
                spreads[name].update(rows.values)
        for name, spread in spreads.items():
            if not spread.finite:
                raise CheckpointError(
                    f"{self.source.directory}: the reference gives no finite value in {name}",
                    "normsurgery inspect --health",
                )
            if spread.nonfinite:
                self.notes.append(
                    f"{name}: {spread.nonfinite} values of the reference are not finite"
                )
        return {name: spread.result() for name, spread in spreads.items()}

    def _pass(
        self,
        dtype: torch.dtype,
        stage: str,
        narrow: torch.dtype,
        *,
        keeps: bool = True,
        sink: FloorGatherer | None = None,
        generates: bool = False,
    ) -> RowStore:
        """One run of the reference over all batches; keeps the outputs, or only sinks them."""
        store = RowStore(self.scratch, f"{stage}-{dtype_name(dtype)}".replace(" ", "-"))
        with self._loaded(dtype) as loaded:
            self.plan = self.plan or self._planned(loaded.model, dtype, narrow)
            title = f"{stage} ({dtype_name(dtype)})"
            with CastWatch() as watch, track(self.progress, title, self.plan) as advance:
                for index, batch in enumerate(self.plan.batches):
                    outputs = forward(loaded.model, batch, dtype, self.device)
                    if keeps:
                        store.add(outputs)
                    if sink is not None:
                        sink.update(index, outputs)
                    advance(batch.positions)
            if generates:
                self._generate(loaded.model, dtype, offloaded=loaded.offloaded)
            self.casts |= frozenset(watch.functions)
            self.report = loaded.report
        return store

    @contextlib.contextmanager
    def _loaded(self, dtype: torch.dtype) -> Iterator[Any]:
        try:
            manager = load_model(
                self.source,
                dtype=dtype,
                device=self.device,
                scratch=self.scratch,
                memory_limit_bytes=self.options.memory_limit_bytes,
            )
            loaded = manager.__enter__()
        except _LOADING as error:
            raise CheckpointError(
                f"the reference {self.source.directory} does not load: {_line(error)}",
                "is its model class known to this version of transformers?",
            ) from error
        try:
            yield loaded
        finally:
            manager.__exit__(None, None, None)

    def _planned(self, model: Any, dtype: torch.dtype, narrow: torch.dtype) -> Plan:
        """Inputs that the reference answers with finite values, with the most padding it bears."""
        if not self.options.gives_samples:
            self.layout = chosen_layout(
                model,
                lambda inputs: forward(model, Batch(inputs), dtype, self.device),
                length=self.options.max_length,
            )
        plan = self._plan_with("natural", model, narrow)
        if _finite(forward(model, plan.batches[0], dtype, self.device)):
            return plan
        paddings: tuple[Padding, ...] = ("right", "none")
        for padding in paddings:
            plan = self._plan_with(padding, model, narrow)
            if _finite(forward(model, plan.batches[0], dtype, self.device)):
                self.notes.append(
                    f"padding: {padding}, since in {dtype_name(dtype)} the reference's code gives "
                    "non-finite values with its usual one"
                )
                return plan
        return self._plan_with("natural", model, narrow)

    def _plan_with(self, padding: Padding, model: Any, narrow: torch.dtype) -> Plan:
        """Floats are rounded to the narrow dtype: the inputs' rounding is nobody's error."""
        options = self.options
        plan = plan_inputs(
            model,
            self.source.directory,
            data=options.data_path,
            tokens=options.tokens,
            max_length=options.max_length,
            seed=options.seed,
            padding=padding,
            layout=self.layout,
            trust_remote_code=self.source.trust_remote_code,
        )
        prompts = None if plan.prompts is None else _rounded(plan.prompts, narrow)
        batches = tuple(_rounded(batch, narrow) for batch in plan.batches)
        return replace(plan, batches=batches, prompts=prompts)

    def _generate(self, model: Any, dtype: torch.dtype, *, offloaded: bool) -> None:
        assert self.plan is not None
        prompts = self.plan.prompts
        if prompts is None or prompts.mask is None or self.plan.batches[0].mask is None:
            return
        width = 1 if "decoder_input_ids" in prompts.inputs else prompts.mask.shape[1]
        room = max(1, self.plan.batches[0].mask.shape[1] - width)
        wanted = _OFFLOADED_STEPS if offloaded else self.options.new_tokens
        self.steps = min(wanted, room)
        try:
            self.generation = generate(
                model, prompts, steps=self.steps, dtype=dtype, device=self.device
            )
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            self.notes.append(f"generation is not compared: the reference cannot ({_line(error)})")


def track(
    progress: Progress, description: str, plan: Plan
) -> contextlib.AbstractContextManager[Advance]:
    """A task over the plan's batches, counted in tokens (or samples, where there is no text)."""
    unit: Unit = "steps" if plan.batches[0].mask is None else "tokens"
    return progress.task(description, sum(batch.positions for batch in plan.batches), unit)


def _rounded(batch: Batch, dtype: torch.dtype) -> Batch:
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.inputs.items()}
    return replace(batch, inputs=inputs)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _finite(outputs: dict[str, Rows]) -> bool:
    return all(bool(rows.values.isfinite().all()) for rows in outputs.values())
