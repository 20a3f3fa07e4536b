"""A checkpoint that opens in two classes with the same outputs opens in one after other surgery.

An RMSNorm that stands for a LayerNorm relies on a stream without a mean, and a modeling file names
the blocks that it was written for. Training and fitting give the stream a mean, cutting takes
blocks away, and the two classes part; so the class that was worked on is the one that stays.
"""

from __future__ import annotations

from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError


def one_door(source: Checkpoint, model_class: type) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint without its second way in, and a note where it had one.

    model_class: the class that is worked on.
    Raises UnsupportedModelError where a stock class would go on opening what was worked on as a
    class beside the weights.
    """
    references = source.config.get("auto_map")
    if not references:
        return source, ()
    stock = _opens_in_stock(source)
    if not model_class.__module__.startswith("transformers."):
        if stock is None:
            return source, ()
        raise UnsupportedModelError(
            f"it opens in two classes, and after this {stock} of transformers would compute "
            "something else than the class beside the weights, without an error",
            "leave --trust-remote-code out: the stock class is worked on, and opens the result",
        )
    files = {f"{str(one).rpartition('--')[2].split('.')[0]}.py" for one in references.values()}
    config = {key: value for key, value in source.config.items() if key != "auto_map"}
    beside = files & {*source.side_files, *source.extra_files}
    note = (
        f"the class in {', '.join(sorted(files))} is left out: it would no longer "
        f"compute what {model_class.__name__} computes"
    )
    return source.with_config(config).without_files(beside), (note,)


def _opens_in_stock(source: Checkpoint) -> str | None:
    """The class of transformers that opens the checkpoint without its code, None if none does."""
    import transformers

    name = str((source.config.get("architectures") or [""])[0])
    known = source.config.get("model_type") in transformers.CONFIG_MAPPING
    return name if known and hasattr(transformers, name) else None
