"""Compare a candidate with its reference: run the reference once, judge any number of candidates.

    run = run_reference(reference, VerifyOptions())
    plain = judge(run, candidate)
    grafted = judge(run, replace(candidate, model_class=Grafted))

One model is in memory at a time, and of its outputs only the batch at hand.
"""

from __future__ import annotations

from typing import Any

import torch

from normsurgery.errors import SurgeryError, UsageError
from normsurgery.report.progress import Progress, Silent
from normsurgery.verify.figures import PredictionGatherer, Predictions, Spread
from normsurgery.verify.floor import PartedGatherer, gatherers
from normsurgery.verify.linearity import Linearity, linearity
from normsurgery.verify.load import LoadReport, load_model
from normsurgery.verify.options import VerifyOptions, check_contract
from normsurgery.verify.reference import (
    ReferenceRun,
    run_reference,
    track,
)
from normsurgery.verify.run import (
    CastWatch,
    Generation,
    Rows,
    exact_arithmetic,
    first_rows,
    forward,
    generate,
    placed,
)
from normsurgery.verify.sources import ModelSource, check_comparable, dtype_name
from normsurgery.verify.verdict import (
    FLOAT64_BOUND,
    HARD_CAST_BOUND,
    NOISE_RATIO,
    Divergence,
    GenerationFigures,
    OutputFigures,
    PredictionFigures,
    Verification,
    reasons_against,
)


def compare(
    reference: ModelSource,
    candidate: ModelSource,
    options: VerifyOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Verification:
    """Judge one candidate. UsageError where the two cannot be compared at all."""
    check_comparable(reference, candidate)
    run = run_reference(reference, options or VerifyOptions(), progress=progress)
    return judge(run, candidate, progress=progress)


def judge(
    run: ReferenceRun,
    candidate: ModelSource,
    *,
    contract: str | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Hold a candidate to its contract (the options' own, unless given) against the reference.

    A candidate whose code does not load or run fails; it does not raise. CheckpointError where its
    files are malformed, UsageError where no output can be compared.
    """
    contract = contract or run.options.contract
    check_contract(contract)
    check_comparable(run.source, candidate)
    judged = _Judge(run, progress or Silent())
    try:
        with exact_arithmetic():
            judged.watch(candidate)
            if run.options.linearity:
                judged.take_apart(candidate)
    except SurgeryError:
        raise
    except Exception as error:  # a candidate's own code may raise anything; that is its failure
        judged.fail(error)
    return judged.verification(contract)


_ROWS_APART = 2  # each contribution is a forward of what follows the blocks, over the vocabulary


class _Judge:
    """One candidate's pass over the batches."""

    def __init__(self, run: ReferenceRun, progress: Progress) -> None:
        self._run = run
        self._progress = progress
        self._report = LoadReport()
        self._names: list[str] = []
        self._differences: dict[str, PartedGatherer] = {}
        self._errors: dict[str, PartedGatherer] = {}
        self._guesses = PredictionGatherer()
        self._generation: Generation | None = None
        self._linearity: Linearity | None = None
        self._casts: set[str] = set()
        self._notes: list[str] = list(run.notes)
        self._failure: str | None = None

    def watch(self, candidate: ModelSource) -> None:
        run = self._run
        with load_model(
            candidate,
            dtype=run.dtype,
            device=run.device,
            scratch=run.scratch,
            memory_limit_bytes=run.options.memory_limit_bytes,
        ) as loaded:
            self._report = loaded.report
            stage = f"candidate ({dtype_name(run.dtype)})"
            with CastWatch() as watch, track(self._progress, stage, run.plan) as advance:
                for index, batch in enumerate(run.plan.batches):
                    self._take(index, forward(loaded.model, batch, run.dtype, run.device))
                    advance(batch.positions)
            self._casts = watch.functions
            if run.generation is not None and run.plan.prompts is not None:
                self._generation = generate(
                    loaded.model,
                    run.plan.prompts,
                    steps=run.steps,
                    dtype=run.dtype,
                    device=run.device,
                )

    def take_apart(self, candidate: ModelSource) -> None:
        """Hold the logits against the blocks' contributions, on two rows, in float64."""
        run = self._run
        with load_model(
            candidate,
            dtype=torch.float64,
            device=run.device,
            scratch=run.scratch,
            memory_limit_bytes=run.options.memory_limit_bytes,
        ) as loaded:
            rows = first_rows(run.plan.batches[0].inputs, _ROWS_APART)
            self._linearity = linearity(loaded.model, placed(rows, torch.float64, run.device))

    def fail(self, error: Exception) -> None:
        line = str(error).strip().splitlines()
        self._failure = f"{type(error).__name__}: {line[0] if line else 'no message'}"

    def _take(self, index: int, outputs: dict[str, Rows]) -> None:
        known = self._run.measured[index]
        if index == 0:
            self._choose(known, outputs)
        same = self._run.truth is self._run.measured
        truth = None if same else self._run.truth[index]
        for name in self._names:
            values = _aligned(name, known[name], outputs.get(name))
            self._differences[name].update(known[name], values)
            if truth is not None:
                self._errors[name].update(truth[name], values)
            if name == "logits":
                reference = known[name].values.to(values.device)
                self._guesses.update(reference, values, known[name].labels, known[name].first)

    def _choose(self, known: dict[str, Rows], outputs: dict[str, Rows]) -> None:
        wanted = self._run.options.outputs
        names = [name for name in known if name in outputs]
        if wanted is not None:
            names = [name for name in names if name in wanted]
        if not names:
            raise UsageError(
                f"no output to compare: the reference gives {', '.join(known) or 'none'}, "
                f"the candidate {', '.join(outputs) or 'none'}",
                "compare two checkpoints of one task",
            )
        left = [name for name in known if name not in names]
        if left:
            self._notes.append(f"outputs not compared: {', '.join(left)}")
        self._names = names
        self._differences = {n: g for n, g in gatherers(self._run.measured).items() if n in names}
        self._errors = self._differences
        if self._run.truth is not self._run.measured:
            self._errors = {n: g for n, g in gatherers(self._run.truth).items() if n in names}

    def verification(self, contract: str) -> Verification:
        run = self._run
        extra = self._report.beyond(run.load_report)
        reasons = []
        outputs: dict[str, OutputFigures] = {}
        generation: GenerationFigures | None = None
        if self._failure is None:
            outputs = self._outputs()
            generation = self._compared(outputs)
        else:
            reasons.append(f"the candidate does not load or run: {self._failure}")
        reasons += reasons_against(contract, extra, outputs, generation, self._linearity)
        primary = _primary(self._names)
        scored = primary == "logits" and self._failure is None
        guesses = self._guesses.result() if scored else None
        compared = sum(len(rows.values) for rows in self._primary_rows(primary))
        return Verification(
            contract=contract,
            dtype=dtype_name(run.dtype),
            device=str(run.device),
            tokens=compared,
            unit=self._unit(compared),
            primary=primary,
            truth_dtype=dtype_name(run.truth_dtype),
            load_report=self._report,
            outputs=outputs,
            predictions=None if guesses is None else _summary(guesses, first=False),
            predictions_first=None if guesses is None else _summary(guesses, first=True),
            generation=generation,
            linearity=self._linearity,
            reasons=tuple(reasons),
            notes=tuple(self._all_notes(extra)),
        )

    def _unit(self, compared: int) -> str:
        batches = self._run.plan.batches
        if any(batch.mask is not None for batch in batches):
            return "tokens"
        return "samples" if compared == sum(batch.positions for batch in batches) else "positions"

    def _primary_rows(self, primary: str) -> list[Rows]:
        store = self._run.measured
        batches = [store[index] for index in range(len(store))]
        return [outputs[primary] for outputs in batches if primary in outputs]

    def _all_notes(self, extra: LoadReport) -> list[str]:
        notes = list(self._notes)
        shared = self._report.beyond(extra)
        if not shared.clean:
            notes.append(f"also in the reference's load report: {shared.sentence()}")
        casts = self._hard_casts()
        if self._run.floors is None and casts:
            notes.append(
                f"held to {HARD_CAST_BOUND:g}: model code casts float64 to float32 ({casts})"
            )
        return notes

    def _hard_casts(self) -> str:
        return ", ".join(sorted(self._run.casts | self._casts))

    def _outputs(self) -> dict[str, OutputFigures]:
        run = self._run
        if run.floors is not None:
            allowed = NOISE_RATIO
        else:
            allowed = HARD_CAST_BOUND if self._hard_casts() else FLOAT64_BOUND
        figures = {}
        for name in self._names:
            difference = self._differences[name].result()
            error = difference
            if run.truth is not run.measured:
                error = self._errors[name].result()
            figures[name] = OutputFigures(
                difference=difference,
                error=error,
                floor=None if run.floors is None else run.floors[name],
                std=run.stds[name],
                allowed=allowed,
                smallest=torch.finfo(run.dtype).eps / 4 * run.stds[name],
            )
        return figures

    def _compared(self, outputs: dict[str, OutputFigures]) -> GenerationFigures | None:
        reference, candidate = self._run.generation, self._generation
        if reference is None or candidate is None or "logits" not in outputs:
            return None
        noise = outputs["logits"].noise
        return GenerationFigures(
            rows=len(reference.tokens),
            new_tokens=reference.tokens.shape[1],
            divergences=tuple(_divergences(reference, candidate, noise)),
        )


def _aligned(name: str, known: Rows, found: Rows | None) -> torch.Tensor:
    shape = None if found is None else tuple(found.values.shape)
    if found is None or shape != tuple(known.values.shape):
        raise UsageError(
            f"output {name} has shape {shape} in the candidate, "
            f"{tuple(known.values.shape)} in the reference",
            "compare two checkpoints with the same head",
        )
    return found.values


def _primary(names: list[str]) -> str:
    """The output that the document calls logits: the logits, or what stands in their place."""
    if "logits" in names or not names:
        return "logits"
    return next((name for name in names if name.startswith("logits")), names[0])


def _summary(guesses: Predictions, *, first: bool) -> PredictionFigures:
    chosen = guesses.first if first else ~guesses.first
    labelled = guesses.loss_first if first else ~guesses.loss_first
    agree = guesses.agree[chosen]
    return PredictionFigures(
        kl=Spread.of(guesses.kl[chosen]),
        top1=float(agree.double().mean()) if len(agree) else None,
        reference_loss=Spread.of(guesses.reference_loss[labelled]),
        candidate_loss=Spread.of(guesses.candidate_loss[labelled]),
    )


def _divergences(reference: Generation, candidate: Generation, noise: float) -> list[Divergence]:
    found = []
    for row, (ours, theirs) in enumerate(zip(reference.tokens, candidate.tokens, strict=True)):
        different: Any = (ours != theirs).nonzero()
        if len(different):
            step = int(different[0])
            logits = reference.logits[row, step].double()
            margin = float(logits[ours[step]] - logits[theirs[step]])
            # transformers picks the token from logits cast to float32, whatever the model's dtype.
            rounding = 2 * torch.finfo(torch.float32).eps * float(logits[ours[step]].abs())
            found.append(Divergence(row, step, margin, max(noise, rounding)))
    return found
