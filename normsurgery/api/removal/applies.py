"""What `inspect` says of `remove-ln`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from normsurgery.anatomy.examine import Examination, anatomy_of
from normsurgery.anatomy.norm_paths import read_paths
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.twin import build_twin
from normsurgery.errors import SurgeryError
from normsurgery.train.texts import why_no_text

_FEW = 2  # blocks of the twin that is asked, so that depth costs nothing


@single_thread()
def removal_surgery(examination: Examination) -> dict[str, Any]:
    """Whether the norms can be trained away, with the reason where they cannot."""
    reason = why_no_text(examination) or _why_no_path(examination)
    return {
        "name": "remove-ln",
        "applies": reason is None,
        "contract": "trained",
        "target": "graft",
        "reason": reason or "each norm that reads the stream becomes a division by one number",
    }


def _why_no_path(examination: Examination) -> str | None:
    try:
        few = build_twin(examination.model_class, examination.config, depth=_FEW)
        small = replace(examination, twin=few, anatomy=anatomy_of(few))
        read_paths(small, few.model)
    except SurgeryError as error:
        return error.message
    return None
