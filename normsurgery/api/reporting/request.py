"""What a page is asked to sample; knows no model, so that a page without samples loads none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normsurgery.calibrate.arrays.files import is_array_source


@dataclass(frozen=True)
class SampleRequest:
    """count: how many samples of the data. prompts: texts to go on from, beside these.

    data: text that the prompts are cut from (None: the bundled prose), or pictures to classify.
    """

    count: int | None = None
    prompts: Sequence[str] = ()
    data: str | None = None
    device: str = "auto"
    new_tokens: int = 48
    seed: int = 0

    @property
    def asked(self) -> bool:
        """Whether models are to be loaded."""
        return bool(self.count or self.prompts or self.data is not None)

    @property
    def pictures(self) -> bool:
        """Whether the data is no text."""
        return self.data is not None and is_array_source(Path(self.data))
