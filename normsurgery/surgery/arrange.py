"""Rearrange a stack: any order of its blocks, repeats, and blocks that do nothing yet.

Dropping, reordering and repeating blocks is lossy ("Transformer Layers as Painters", arXiv
2407.09298; "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887). A block
whose writers are zero is the identity, so where only such blocks are added the contract is exact.
Tensors are renamed as they lie on disk, and none is read. What config.json says of single blocks
moves with them, or the order is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from normsurgery.anatomy.block_config import ConfigPlan, plan_config
from normsurgery.anatomy.block_writers import block_writers, silence_of
from normsurgery.anatomy.config_places import edited
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.proof import Proof
from normsurgery.anatomy.stacks import Stack
from normsurgery.anatomy.twin import FELT_WINDOW, build_twin
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.surgery.arrange_proof import prove_arrangement
from normsurgery.surgery.block_names import BlockNames, read_block_names
from normsurgery.surgery.receipt import Receipt, receipt_of

Source: TypeAlias = int | Literal["zero"]
Silence: TypeAlias = Mapping[str, float]  # parameter of a block → what fills it


@dataclass(frozen=True)
class Arrangement:
    """A stack's new order, ready to be proved and applied.

    sources: a block's number in the source, or "zero", for each block of the result. order: the
    block that each is made of; for a zero block, a neighbour. silence: for each, the parameters
    that are filled. names: the stack's tensors on disk.
    """

    examination: Examination
    stack: Stack
    sources: tuple[Source, ...]
    order: tuple[int, ...]
    config: ConfigPlan
    silence: tuple[Silence, ...]
    names: BlockNames

    @property
    def contract(self) -> str:
        """Exact where every block is kept, once and in order, and all others are zero."""
        kept = [source for source in self.sources if source != "zero"]
        return "exact" if kept == list(range(self.stack.depth)) else "lossy"

    @property
    def dropped(self) -> tuple[int, ...]:
        """The blocks of the source that the result does without."""
        return tuple(n for n in range(self.stack.depth) if n not in self.sources)

    def operate(self, source: Checkpoint) -> tuple[Checkpoint, Receipt]:
        """The rearranged checkpoint and its receipt."""
        return arrange(source, self)

    def prove(self) -> Proof:
        """Prove it on a twin whose attention windows can be felt (see `arrange_proof`)."""
        known = self.examination
        twin = build_twin(known.model_class, known.config, window=FELT_WINDOW)
        order = [source for source in self.sources if source != "zero"]
        return prove_arrangement(
            replace(known, twin=twin), self.stack, order, lambda source: self.operate(source)[0]
        )


def plan_arrangement(
    checkpoint: Checkpoint,
    examination: Examination,
    stack: Stack,
    sources: Sequence[Source],
) -> Arrangement:
    """Plan what `sources` asks for.

    sources: at least one block of the stack, by number from 0; "zero" adds a block that is the
    identity, of the kind of the block before it, or where the class has another there, after it.
    Raises UsageError for a number that is not a block's, UnsupportedModelError with the reason
    where the class cannot express the result.
    """
    names = read_block_names(checkpoint, examination, stack)
    order, config = _first_that_fits(checkpoint, examination, stack, sources)
    silence: list[Silence] = [{} for _ in sources]
    if "zero" in sources:
        writers = block_writers(examination, stack)
        silence = [
            silence_of(writers[like]) if source == "zero" else {}
            for source, like in zip(sources, order, strict=True)
        ]
    return Arrangement(
        examination, stack, tuple(sources), tuple(order), config, tuple(silence), names
    )


def arrange(source: Checkpoint, arrangement: Arrangement) -> tuple[Checkpoint, Receipt]:
    """Rename the tensors of the blocks, fill those of zero blocks, edit config.json.

    Contract: exact where only zero blocks are added, else lossy.
    """
    blocks = {
        new: entry
        for number in range(len(arrangement.order))
        for new, entry in _block(source, arrangement, number).items()
    }
    tensors: dict[str, tuple[LazyTensor, str]] = {}
    ours = arrangement.names.all_names()
    placed = False
    for name, tensor in source.items():
        if name not in ours:
            _put(tensors, name, (tensor, name))
        elif not placed:  # all blocks where the first one stood
            placed = True
            for new, entry in blocks.items():
                _put(tensors, new, entry)
    config = edited(source.config, arrangement.config.edits, arrangement.examination.config)
    result = source.replaced(tensors).with_config(config)
    changed = [name for name, (_, old) in blocks.items() if name in source and name != old]
    changed += [name for name, (made, old) in blocks.items() if made.source != source[old].source]
    receipt = receipt_of(
        "arrange", source, result, changed=[name for name in changed if name in source],
        parameters={
            "stack": arrangement.stack.name,
            "before": arrangement.stack.depth,
            "after": len(arrangement.sources),
            "blocks": list(arrangement.sources),
            "dropped": list(arrangement.dropped),
        },
    )  # fmt: skip
    return result, replace(receipt, contract=arrangement.contract)


def _first_that_fits(
    checkpoint: Checkpoint, examination: Examination, stack: Stack, sources: Sequence[Source]
) -> tuple[list[int], ConfigPlan]:
    """The block that each is made of, and the configuration that says so."""
    refusals: list[UnsupportedModelError] = []
    for order in _orders(sources, stack):
        try:
            return order, plan_config(examination, checkpoint.config, stack, order)
        except UnsupportedModelError as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _orders(sources: Sequence[Source], stack: Stack) -> list[list[int]]:
    """Zero blocks made after the blocks before them; and after those that follow."""
    wrong = [s for s in sources if s != "zero" and not 0 <= s < stack.depth]
    if wrong:
        raise UsageError(
            f"{stack.name} has no block {wrong[0]}",
            f"its blocks are numbered 0 to {stack.depth - 1}",
        )
    numbers: list[int | None] = [None if source == "zero" else source for source in sources]
    first = next((number for number in numbers if number is not None), None)
    if first is None:
        raise UsageError("no block of the source is kept", f"name some of 0 to {stack.depth - 1}")
    after = _filled_in(numbers, first)
    last = next(number for number in reversed(numbers) if number is not None)
    before = _filled_in(numbers[::-1], last)[::-1]
    return [after] if after == before else [after, before]


def _filled_in(numbers: Sequence[int | None], first: int) -> list[int]:
    """Each None replaced by the number before it."""
    order: list[int] = []
    for number in numbers:
        order.append(number if number is not None else (order[-1] if order else first))
    return order


def _block(
    source: Checkpoint, arrangement: Arrangement, number: int
) -> dict[str, tuple[LazyTensor, str]]:
    """A block of the result: name on disk → its tensor, and the tensor whose file it goes to.

    A parameter that one block keeps for all (T5's relative positions) comes from there.
    """
    names, config = arrangement.names, arrangement.config
    like = arrangement.order[number]
    expected = config.after.tensors(number)
    own = config.before.tensors(like)
    chosen = [
        (like, tensor) for tensor in names.of(like) if not tensor.holds or tensor.holds & expected
    ]
    missing = expected - own
    keeper = config.before.keeper()
    if missing and keeper is not None:
        chosen += [(keeper, tensor) for tensor in names.of(keeper) if tensor.holds & missing]
    found = {}
    for block, tensor in chosen:
        stored = source[tensor.name]
        fills = {
            value for name, value in arrangement.silence[number].items() if name in tensor.holds
        }
        if fills:
            if len(fills) > 1 or not tensor.holds <= set(arrangement.silence[number]):
                raise UnsupportedModelError(
                    f"{tensor.name} holds a block's writer together with other parameters",
                    "a block of zeros cannot be made; drop `zero` from the list",
                )
            stored = stored.filled(fills.pop())
        found[names.renamed(tensor.name, block, number)] = (stored, tensor.name)
    return found


def _put(
    tensors: dict[str, tuple[LazyTensor, str]], name: str, entry: tuple[LazyTensor, str]
) -> None:
    if name in tensors:
        raise UnsupportedModelError(
            f"{name} exists already: the checkpoint holds tensors of blocks that the model lacks",
            "choose an order with fewer blocks",
        )
    tensors[name] = entry
