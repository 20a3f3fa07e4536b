"""What two checkpoints are compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normsurgery.calibrate.arrays.files import is_array_source
from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint
from normsurgery.verify.sources import dtype_named
from normsurgery.verify.verdict import CONTRACTS


@dataclass(frozen=True)
class VerifyOptions:
    """dtype: None is the dtype that the reference is stored in.

    outputs: names of the outputs that the candidate guarantees; None is all that both have.
    memory_limit_bytes: above it a model is offloaded; None measures what is free.
    linearity: whether the candidate's logits must be the sum of its blocks' contributions.
    """

    data: str | Path | None = None
    tokens: int = 2048
    max_length: int = 256
    dtype: str | None = None
    device: str = "auto"
    against_float64: bool = False
    contract: str = "exact"
    seed: int = 0
    new_tokens: int = 32
    outputs: tuple[str, ...] | None = None
    memory_limit_bytes: int | None = None
    linearity: bool = False

    def __post_init__(self) -> None:
        check_contract(self.contract)
        if self.dtype is not None:
            dtype_named(self.dtype)
        if self.tokens < 2 or self.max_length < 2:
            raise UsageError(
                "a comparison needs rows of at least 2 tokens",
                "leave --tokens and --max-length out",
            )

    @property
    def data_path(self) -> Path | None:
        return None if self.data is None else Path(self.data)

    @property
    def gives_samples(self) -> bool:
        """Whether `data` is images, sounds or arrays."""
        return self.data_path is not None and is_array_source(self.data_path)


def check_contract(contract: str) -> None:
    """UsageError unless it is exact, fitted, lossy or trained."""
    if contract not in CONTRACTS:
        raise UsageError(f"unknown contract {contract!r}", choices_hint(contract, CONTRACTS))
