"""What surgeries share whose result is of the source's own class: the target and its check."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.api.verify import MAX_LENGTH
from normsurgery.checkpoint import Checkpoint
from normsurgery.graft.attach import main_auto_class
from normsurgery.graft.classes import auto_classes
from normsurgery.report.progress import Progress
from normsurgery.surgery.cast import cast, stored_dtype
from normsurgery.surgery.receipt import Receipt
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference

FORM = "stock"
_OWN_CODE = "transformers_modules"  # where transformers imports modeling files of checkpoints


def target_document(examination: Examination, why: str) -> dict[str, Any]:
    """The `target` of a result that opens in the source's class.

    That is a class of transformers, with no code beside it, or the checkpoint's own, whose
    modeling files go with it.
    """
    name = examination.model_class.__name__
    own_code = examination.model_class.__module__.split(".")[0] == _OWN_CODE
    classes = auto_classes(examination.config, examination.model_class)
    own = [auto for auto, named in classes.items() if named == name]
    return {
        "form": "graft" if own_code else FORM,
        "architecture": name,
        "auto_class": main_auto_class(classes, name),
        "auto_classes": own,
        "engines": ["transformers"],
        "why": why,
        "alternatives": [],
        "modeling_file": own_code,
    }


def stored_as(
    result: Checkpoint, receipts: list[Receipt], dtype: str | None
) -> tuple[Checkpoint, list[Receipt]]:
    """The result in the storage dtype asked for, with that step's receipt; None keeps it."""
    if dtype is None:
        return result, receipts
    result, receipt = cast(result, stored_dtype(dtype))
    return result, [*receipts, receipt]


def unverified(contract: str) -> dict[str, Any]:
    """The `verification` of a result that nobody looked at."""
    return {"verdict": "skipped", "contract": contract}


def verification_options(
    examination: Examination, *, contract: str, without: Collection[str] = (), **given: Any
) -> VerifyOptions:
    """What is compared: every output of the source less those in `without`.

    given: other fields of VerifyOptions.
    """
    outputs = tuple(name for name in examination.anatomy.outputs if name not in without)
    return VerifyOptions(contract=contract, outputs=outputs, max_length=MAX_LENGTH, **given)


def verify_same_class(
    checkpoint: Checkpoint,
    examination: Examination,
    staged: Path,
    *,
    contract: str,
    progress: Progress,
    allow_pickle: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Verify a staged directory against its source, both in the source's class.

    given: data, device, dtype and seed, as VerifyOptions takes them.
    """
    model_class = examination.model_class
    options = verification_options(examination, contract=contract, **given)
    source = ModelSource(checkpoint.directory, model_class, allow_pickle=allow_pickle)
    reference = run_reference(source, options, progress=progress)
    found = judge(reference, ModelSource(staged, model_class), progress=progress).to_dict()
    return {"verdict": found["verdict"], "contract": contract, FORM: found}
