"""Give a tied head a table of its own, so that the embedding may be changed without it.

Contract: exact. `tie_word_embeddings: false` unties
more than the head in some families, so every tensor that becomes independent is written out.
Refuses: a class that ties whatever the configuration says.
"""

from __future__ import annotations

from collections.abc import Callable

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.names import NameMap, tied_names
from normsurgery.anatomy.twin import build_twin
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.receipt import Receipt, receipt_of


def separate_head(
    checkpoint: Checkpoint, examination: Examination, *, trust_remote_code: bool = False
) -> tuple[Examination, Callable[[Checkpoint], tuple[Checkpoint, Receipt]]]:
    """The examination of the untied checkpoint, and the step that unties.

    Raises UnsupportedModelError as `untie` does.
    """
    config = examination.config
    tied, config.tie_word_embeddings = config.tie_word_embeddings, False
    untied = tied_names(build_twin(examination.model_class, config).model)
    config.tie_word_embeddings = tied

    def step(source: Checkpoint) -> tuple[Checkpoint, Receipt]:
        return untie(source, examination.names, untied)

    loose, _ = step(checkpoint)
    return examine(loose, trust_remote_code=trust_remote_code, tie=False), step


def untie(source: Checkpoint, tied: NameMap, untied: dict[str, str]) -> tuple[Checkpoint, Receipt]:
    """Write out every copy that the class expects once `tie_word_embeddings` is false.

    tied: the names of the checkpoint as it is. untied: parameter → the name it is loaded under,
    in the class built with `tie_word_embeddings` false.
    """
    loose = [
        name
        for name, first in untied.items()
        if name == first and tied.tied.get(name, name) != name
    ]
    if not loose:
        raise UnsupportedModelError(
            "the class ties its head to the embedding whatever the configuration says",
            "convert without --untie: the tie is kept and the lookup is centred instead",
        )
    edits: dict[str, LazyTensor] = {}
    added: dict[str, LazyTensor] = {}
    beside = ""
    for name in loose:
        holders = tied.on_disk(name)
        beside = holders[0][0]
        own = [held for held, part in holders if part.parameter == name]
        if own:
            edits[own[0]] = source[beside]
        else:
            added[name] = source[beside]
    result = source.override(edits)
    if added:
        result = result.add(added, beside=beside)
    result = result.with_config({**source.config, "tie_word_embeddings": False})
    parameters = {"parameters_added": sum(tensor.numel for tensor in added.values())}
    return result, receipt_of("untie", source, result, changed=edits, parameters=parameters)
