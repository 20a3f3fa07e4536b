"""What `prune` does between opening a checkpoint and writing the result."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from normsurgery.anatomy.block_writers import BlockWriter, block_writers
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.stacks import Stack
from normsurgery.api.choosing import Choice, Chooser, Method, check_choice, needs_text
from normsurgery.api.texts import TextRequest, Texts, read_texts
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.distributed import Processes
from normsurgery.calibrate.fit.sequential import Fitted, Plan, refit_and_heal
from normsurgery.calibrate.fit.trial import Trial, tried
from normsurgery.calibrate.resume import Work, fingerprint
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.graft.doors import one_door
from normsurgery.report.progress import Progress
from normsurgery.surgery.arrange import Arrangement, plan_arrangement
from normsurgery.surgery.block_lists import Drop
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.set_parameters import set_parameters
from normsurgery.verify.losses import Measured, loss_tables, measure, prompts_from, side_by_side
from normsurgery.verify.reference import chosen_device
from normsurgery.verify.sources import ModelSource

TRIAL_SHARE = 4  # trials look at one row in so many
STATES = "states"  # hidden states that do not fit into memory, in the work directory


@dataclass(frozen=True)
class PruneRequest:
    """What was asked for. substitute, heal, objective: as `calibrate.fit.sequential.Plan`."""

    drop: Drop
    method: Method = "angular"
    iterative: bool = False
    explain: bool = False
    substitute: str = "none"
    objective: str = "squares"
    heal: str = "none"
    text: TextRequest = field(default_factory=TextRequest)

    @property
    def fits(self) -> bool:
        """Whether weights are fitted to text."""
        return not self.substitute == self.heal == "none"

    @property
    def needs_text(self) -> bool:
        """Whether anything before the result is written reads text."""
        return self.fits or needs_text(self.drop, self.method, explain=self.explain)


@dataclass(frozen=True)
class Pruning:
    """A model whose blocks are about to go. directory: where hidden states and unfinished passes
    may lie; it is removed at the end of `close`."""

    checkpoint: Checkpoint
    examination: Examination
    stack: Stack
    request: PruneRequest
    directory: Path
    device: torch.device
    progress: Progress
    trust_remote_code: bool = False
    processes: Processes = field(default_factory=Processes)

    @cached_property
    def texts(self) -> Texts:
        """What is fitted to and what is judged on; read when first asked for."""
        return read_texts(
            self.checkpoint.directory, self.request.text, trust_remote_code=self.trust_remote_code
        )

    @cached_property
    def engine(self) -> Blockwise:
        """The source model, a block at a time, on the calibration text."""
        return self.engine_on(self.texts.fitted)

    def engine_on(self, rows: TextRows) -> Blockwise:
        """The source model, a block at a time, shared by all processes."""
        return Blockwise(
            self.checkpoint, self.examination, self.stack, rows, device=self.device,
            directory=self.work.directory / STATES, processes=self.processes,
        )  # fmt: skip

    @cached_property
    def work(self) -> Work:
        """Where passes that were interrupted are found again."""
        about = {
            "stack": self.stack.name, "device": str(self.device), "drop": self.request.drop.count,
        }  # fmt: skip
        mark = fingerprint(self.checkpoint, self.texts.fitted, **about)
        return Work(self.directory, mark, self.processes)

    def choose(self) -> Choice:
        """Which blocks go."""
        drop, method = self.request.drop, self.request.method
        if not needs_text(drop, method, explain=self.request.explain):
            last = tuple(range(self.stack.depth - drop.count, self.stack.depth))
            return Choice(drop.blocks or last)
        chooser = Chooser(self.engine, self.work, self.progress)
        if drop.blocks is None and method == "trial":
            return chooser.by_trial(drop, self.sample, self.tried)
        if drop.blocks is None and self.request.iterative:
            return chooser.one_by_one(drop, method)
        return chooser.windows(drop, "fit" if method == "trial" else method)

    @cached_property
    def sample(self) -> Blockwise:
        """The same on one row in four."""
        rows = self.texts.fitted
        chosen = [
            ids[mask].tolist()
            for ids, mask in zip(rows.ids[::TRIAL_SHARE], rows.mask[::TRIAL_SHARE], strict=True)
        ]
        return self.engine_on(TextRows.of(chosen, source=rows.about.get("source", "")))

    def tried(self, cuts: Sequence[tuple[int, ...]]) -> list[Trial]:
        """Each cut, fitted on the sample (on all of the text where that is too little for a fit);
        the best first."""
        with self.progress.task("trials", None, "steps"):
            try:
                return tried(self.sample, self.writers, cuts, self.plan((0,)))
            except UsageError:
                return tried(self.engine, self.writers, cuts, self.plan((0,)))

    @cached_property
    def writers(self) -> tuple[tuple[BlockWriter, ...], ...]:
        """What adds to the stream in each block."""
        return block_writers(self.examination, self.stack)

    def plan(self, order: tuple[int, ...]) -> Plan:
        """What is to be fitted where these blocks stay."""
        request = self.request
        return Plan(
            order, request.substitute, request.heal, request.objective, seed=request.text.seed
        )

    def arrange(self, choice: Choice) -> Arrangement:
        """The plan for what stays."""
        kept = replace(self.request.drop, blocks=choice.dropped).kept(self.stack.depth)
        return plan_arrangement(self.checkpoint, self.examination, self.stack, kept)

    def fit(self, arrangement: Arrangement) -> Fitted:
        """New weights for blocks that stay; none where nothing is to be fitted."""
        if not self.request.fits:
            return Fitted({})
        plan = self.plan(arrangement.order)
        with self.progress.task("fit", len(plan.order), "steps") as advance:
            return refit_and_heal(
                self.engine, self.writers, plan, progress=lambda done, of: advance(1)
            )

    def operate(
        self, arrangement: Arrangement, fitted: Fitted
    ) -> tuple[Checkpoint, list[Receipt], tuple[str, ...]]:
        """The result, its receipts, and what is to be noted."""
        source, notes = one_door(self.checkpoint, self.examination.model_class)
        receipts = []
        if fitted.weights:
            source, receipt = set_parameters(
                source, self.examination.names, fitted.weights, surgery="substitute",
                contract="fitted", parameters=self._fit_parameters(fitted), notes=fitted.notes,
                shared=False,
            )  # fmt: skip
            receipts.append(receipt)
        result, receipt = arrangement.operate(source)
        return result, [*receipts, receipt], notes

    def _fit_parameters(self, fitted: Fitted) -> dict[str, Any]:
        request = self.request
        objective = {"objective": request.objective} if request.substitute == "replaceme" else {}
        return {
            "substitute": request.substitute, **objective, "heal": request.heal,
            "tokens": fitted.tokens, "regressors": fitted.regressors,
        }  # fmt: skip

    def judged(self, staged: Path, arrangement: Arrangement) -> dict[str, Any]:
        """`losses` and `samples`; a note in their place where the surgery needs no text and the
        model has no tokenizer or no next-token loss."""
        if not self.stack.language:
            return {}
        try:
            return self.judge(staged, arrangement)
        except (UnsupportedModelError, UsageError) as error:
            if self.request.needs_text:
                raise
            return {"notes": [f"no losses are reported: {error.message}"]}

    def judge(self, staged: Path, arrangement: Arrangement) -> dict[str, Any]:
        """`losses` and `samples` of original, plain drop and saved result on held-out text."""
        domains, directory = self.texts.domains, self.checkpoint.directory
        model_class = self.examination.model_class
        dtype = torch.float32
        prompts = prompts_from(domains["calibration"])
        with tempfile.TemporaryDirectory(prefix="normsurgery-losses-") as scratch:

            def of(source: ModelSource) -> Measured:
                return measure(
                    source, domains, dtype=dtype, device=self.device, scratch=Path(scratch),
                    prompts=prompts,
                )  # fmt: skip

            # first, since it refuses models without losses
            dropped = Measured(self._losses(arrangement.order, Path(scratch)))
            original = of(ModelSource(directory, model_class))
            result = of(ModelSource(staged, model_class))
            measured = {"original": original, "drop": dropped, "result": result}
        from normsurgery.calibrate.text.tokenizer import needed_tokenizer

        tokenizer = needed_tokenizer(directory, trust_remote_code=self.trust_remote_code)
        return {
            "losses": loss_tables(domains, measured),
            "samples": side_by_side(tokenizer, prompts, measured),
        }

    def _losses(self, order: tuple[int, ...], scratch: Path) -> dict[str, torch.Tensor]:
        """[tokens] by domain, in nats: of the source with other blocks left out, block by block."""
        found = {}
        for name, rows in self.texts.domains.items():
            engine = Blockwise(
                self.checkpoint, self.examination, self.stack, rows, device=self.device,
                order=order, directory=scratch,
            )  # fmt: skip
            states = engine.embedded()
            for block in order:
                engine.advance(block, states)
            found[name] = torch.cat(engine.token_losses(states))
            states.close()
        return found

    def close(self) -> None:
        """All is done, in every process: what was kept to go on with is removed."""
        if "work" in self.__dict__:
            self.work.finish()

    def discard(self) -> None:
        """The request was refused: there is nothing to go on with. Waits for no other process."""
        if "work" in self.__dict__ and self.processes.rank == 0:
            shutil.rmtree(self.directory, ignore_errors=True)


def start(
    checkpoint: Checkpoint,
    examination: Examination,
    stack: Stack,
    request: PruneRequest,
    output: Path,
    *,
    device: str,
    progress: Progress,
    trust_remote_code: bool,
) -> Pruning:
    """Everything that pruning needs; nothing is read yet.

    Raises UnsupportedModelError where text is needed and the stack is not a language model's.
    """
    if request.needs_text and not stack.language:
        raise UnsupportedModelError(
            f"{stack.name} is not what a language head reads: text cannot tell which of its "
            "blocks matter, nor can weights be fitted to it",
            "name the blocks (--drop 4,5), or take the last ones (--method last)",
        )
    check_choice(request.drop, request.method, iterative=request.iterative, fits=request.fits)
    processes = Processes.joined(cpu=chosen_device(device).type == "cpu")
    chosen = torch.device(processes.device) if processes.count > 1 else chosen_device(device)
    directory = output.absolute().with_name(f".{output.name}.calibration")
    return Pruning(
        checkpoint, examination, stack, request, directory, chosen, progress, trust_remote_code,
        processes,
    )  # fmt: skip
