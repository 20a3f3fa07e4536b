"""A model under measurement: what it is run on, and what one pass costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from normsurgery.anatomy.inputs import example_inputs
from normsurgery.bench.timing import Clock, Run, Runner, forward_runner, generate, text_runner
from normsurgery.calibrate.arrays.read import read_arrays
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.verify.layout import Host, chosen_layout
from normsurgery.verify.run import placed

Inputs = dict[str, Tensor]
_TRIAL_LENGTH = 8


@dataclass(frozen=True)
class Cell:
    """One place of the grid. length: tokens of a row, None where the input is no text.

    new_tokens: 0 where one forward pass is all there is to measure.
    """

    batch: int
    length: int | None
    new_tokens: int = 0


@dataclass
class Subject:
    """A loaded model. layout: which candidate of `example_inputs` it takes. writes: generates."""

    name: str
    model: Any
    dtype: torch.dtype
    device: torch.device
    directory: Path
    seed: int = 0
    data: Path | None = None
    trust_remote_code: bool = False
    layout: int = 0
    writes: bool = False
    reads_text: bool = False
    notes: list[str] = field(default_factory=list)
    _compiled: Callable[..., Any] | None = None

    @property
    def parameters(self) -> int:
        """Distinct parameters; a tied table counts once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def parameter_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def prepare(self) -> None:
        """Find out by trying what the model takes and whether it writes text."""
        self.layout = chosen_layout(self.model, self._forward, length=_TRIAL_LENGTH)
        trial = self._made_up(1, _TRIAL_LENGTH)
        self.reads_text = "input_ids" in trial
        if self.data is not None and not any(t.is_floating_point() for t in trial.values()):
            raise UsageError(
                f"{self.name} reads tokens alone, which are made up; {self.data.name} is not read",
                "leave out --data",
            )
        self.writes = self.model.can_generate() and self._can_write(trial)

    def _can_write(self, trial: Inputs) -> bool:
        try:
            generate(self.model, trial, new_tokens=2)
        except Exception as error:  # whatever the model's own code raises at such inputs
            why = _first_line(error)
            self.notes.append(f"{self.name}: no text is generated from made-up inputs ({why})")
            return False
        return True

    def _forward(self, inputs: Mapping[str, Tensor]) -> Any:
        with torch.inference_mode():
            return self.model(**placed(dict(inputs), self.dtype, self.device))

    def _made_up(self, batch: int, length: int) -> Inputs:
        host: Any = Host(self.model)
        made = example_inputs(
            host, batch=batch, length=length, seed=self.seed, candidate=self.layout
        )
        return placed(made, self.dtype, self.device)

    def inputs(self, cell: Cell) -> Inputs:
        """Seeded made-up inputs of the cell's size, or the user's own samples.

        UsageError where the model does not read rows as long, or there are too few samples.
        """
        made = self._made_up(cell.batch, cell.length or _TRIAL_LENGTH)
        if self.data is not None:
            return made | self._given(cell.batch, self.data)
        if cell.length is not None:
            self._check_length(made, cell)
        return made

    def _given(self, batch: int, data: Path) -> Inputs:
        samples = read_arrays(
            data, self.model, self.directory,
            limit=batch, seed=self.seed, trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        first = next(samples.batches(batch), None)
        if first is None or len(first) < batch:
            raise UsageError(
                f"{data} has fewer than {batch} samples of one shape", "give more, or lower --batch"
            )
        return placed(first.inputs, self.dtype, self.device)

    def _check_length(self, made: Inputs, cell: Cell) -> None:
        got = made["input_ids"].shape[-1]
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        asked = (cell.length or 0) + cell.new_tokens
        decoder_alone = not getattr(self.model.config, "is_encoder_decoder", False)
        if got != cell.length or (
            decoder_alone and isinstance(positions, int) and 1 < positions < asked
        ):
            raise UsageError(
                f"{self.name} reads {positions or got} tokens, {asked} are asked for",
                "lower --length or --new-tokens",
            )

    def runner(self, cell: Cell, clock: Clock, *, compiled: bool = False) -> Runner:
        """What one timed run of this cell is, eagerly or through torch.compile."""
        inputs = self.inputs(cell)
        if self.writes:
            plain = text_runner(
                self.model, inputs, new_tokens=cell.new_tokens, device=self.device, clock=clock
            )
        else:
            plain = forward_runner(self.model, inputs, device=self.device, clock=clock)
        if not compiled:
            return plain

        def run() -> Run:
            with self._compiled_forward():
                try:
                    return plain()
                except Exception as error:  # the compiler's own, of many kinds; eager runs went
                    raise UnsupportedModelError(
                        f"{self.name} does not run through torch.compile: {_first_line(error)}",
                        "--compile none",
                    ) from error

        return run

    @contextmanager
    def _compiled_forward(self) -> Iterator[None]:
        """The same weights behind a compiled forward, so that eager runs can stand between."""
        if self._compiled is None:
            self._compiled = torch.compile(self.model.forward)
        self.model.forward = self._compiled
        try:
            yield
        finally:
            del self.model.forward

    def flops(self, cell: Cell) -> int:
        """Floating point operations of one forward pass over the cell's inputs.

        Matrix products, convolutions and attention (a multiplication and an addition count two),
        as `torch.utils.flop_counter` knows them; what a norm or an activation takes is not in it.
        """
        inputs = self.inputs(cell)
        # The counter does not know the fused attention of every device; its plain form it does.
        with (
            torch.inference_mode(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            self.model(**inputs)
        return int(counter.get_total_flops())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
