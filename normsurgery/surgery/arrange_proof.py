"""The proof of a rearrangement: the twin's saved files against its blocks rearranged in memory.

Three comparisons in float64, on every output. The harness itself: all blocks in their own order
must give what the model gives. The result, loaded from disk in the stock class, must give what the
listed blocks give one after another. And the control: it must differ from another list.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from normsurgery.anatomy.composition import composed, plain_outputs
from normsurgery.anatomy.examine import Examination, save_twin
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import CONTROL_FLOOR, EXACT_BOUND, Proof, load_float64
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.stacks import Stack
from normsurgery.anatomy.twin import relative_error
from normsurgery.checkpoint import Checkpoint, open_checkpoint, write_weights
from normsurgery.errors import UnsupportedModelError, VerificationError

_REPORT = "nothing was written; please report the model id"


@single_thread()
def prove_arrangement(
    examination: Examination,
    stack: Stack,
    order: Sequence[int],
    operate: Callable[[Checkpoint], Checkpoint],
) -> Proof:
    """Prove that what `operate` makes of the twin's files runs the blocks `order` in a row.

    Raises UnsupportedModelError where the blocks do not simply run one after another (the harness
    cannot reproduce the model), VerificationError where the result is wrong.
    """
    twin = examination.twin
    reference = _outputs(twin.model, twin.inputs)
    usual = range(stack.depth)
    harness, where = relative_error(_composed(examination, stack, usual), reference)
    if not harness <= EXACT_BOUND:
        raise UnsupportedModelError(
            f"the blocks of {stack.name} do more than pass a stream on: {where} changes by "
            f"{harness:.1e} of its std when they are run one by one",
            "please report the model id",
        )
    wanted = _composed(examination, stack, order)
    with tempfile.TemporaryDirectory(prefix="normsurgery-twin-") as scratch:
        before, after = Path(scratch, "source"), Path(scratch, "result")
        save_twin(examination, before)
        after.mkdir()
        write_weights(operate(open_checkpoint(before)), after, hashes=False)
        model = load_float64(examination.model_class, after)
    ours = _outputs(model, twin.inputs)
    if set(ours) != set(wanted):
        odd = sorted(set(ours) ^ set(wanted))[0]
        raise VerificationError(f"the result and the source differ in outputs: {odd}", _REPORT)
    error, where = relative_error(ours, wanted)
    if not error <= EXACT_BOUND:
        raise VerificationError(
            f"{where} differs by {error:.1e} of its std from the same blocks run in memory, on the "
            f"twin (allowed {EXACT_BOUND:.0e}): the class makes something of a block's number",
            _REPORT,
        )
    control = relative_error(ours, _composed(examination, stack, _another(order, stack)))[0]
    if not control >= CONTROL_FLOOR:
        raise VerificationError(
            f"the proof cannot tell one order of blocks from another (control {control:.1e})",
            _REPORT,
        )
    return Proof({"stock": error}, {"stock": control}, harness, tuple(wanted))


def _another(order: Sequence[int], stack: Stack) -> list[int]:
    """Another list: its first block replaced by the next of the stack, or left out."""
    if stack.depth == 1:
        return [*order, 0]
    return [(order[0] + 1) % stack.depth, *order[1:]]


def _composed(examination: Examination, stack: Stack, order: Sequence[int]) -> dict[str, Tensor]:
    model = examination.twin.model
    with composed(model, stack.blocks, order):
        return _outputs(model, examination.twin.inputs)


def _outputs(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with plain_outputs(model):
        return run_outputs(model, inputs)
