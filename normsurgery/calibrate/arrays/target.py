"""What a model takes: the arguments of its forward, the size of its images, its labels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normsurgery.errors import UsageError

_ARGUMENTS = {
    "images": ("pixel_values", "pixel_values_images", "image", "images", "x"),
    "sounds": ("input_values", "audio_values", "input_features", "x"),
}
_GENERIC = "LABEL_"  # transformers' names of classes that nobody named


@dataclass(frozen=True)
class Target:
    """accepted: arguments of forward. main: the one that holds the samples.

    image_size: (height, width) that the configuration asks for, None where it names none.
    channels: of an image. labels: name → class number.
    """

    accepted: frozenset[str]
    main: str
    image_size: tuple[int, int] | None
    channels: int
    labels: Mapping[str, int]

    @classmethod
    def of(cls, model: Any) -> Target:
        """What this model takes, by its signature and its configuration."""
        accepted = frozenset(inspect.signature(model.forward).parameters) - {"kwargs", "args"}
        config = model.config
        size = _setting(config, "image_size")
        labels = getattr(config, "label2id", None) or {}
        return cls(
            accepted,
            getattr(model, "main_input_name", None) or next(iter(accepted)),
            (size, size) if isinstance(size, int) else (tuple(size)[-2:] if size else None),
            _setting(config, "num_channels") or 3,
            {str(name): int(number) for name, number in labels.items()},
        )

    def argument_for(self, kind: str) -> str:
        """The argument that takes plain "images" or "sounds"; UsageError where none does."""
        likely = _ARGUMENTS[kind]
        found = next((name for name in (self.main, *likely) if name in likely), None)
        if found is None or found not in self.accepted:
            raise UsageError(
                f"the model takes no {kind}: its input is {self.main}",
                "give data of the kind that the model reads",
            )
        return found

    def numbers_of(self, folders: Sequence[str]) -> tuple[int, ...] | str:
        """The class of each sub-folder name; or, as a string, why the names are no labels.

        A name is a label of the configuration, or a class number; where the configuration names no
        class (LABEL_0 …) and there are as many folders as classes, they count in order of name.
        """
        names = sorted(set(folders))
        count = len(self.labels)
        if not count:
            return "the model has no labels"
        if all(name in self.labels for name in names):
            return tuple(self.labels[name] for name in folders)
        if all(name.isdecimal() and int(name) < count for name in names):
            return tuple(int(name) for name in folders)
        if len(names) == count and all(name.startswith(_GENERIC) for name in self.labels):
            return tuple(names.index(name) for name in folders)
        unknown = next(name for name in names if name not in self.labels)
        return f"the folder {unknown} is no label of the model"


def _setting(config: Any, key: str) -> Any:
    """A key of the configuration, or of its picture's part."""
    places = (
        config,
        getattr(config, "vision_config", None),
        getattr(config, "backbone_config", None),
    )
    return next((v for p in places if (v := getattr(p, key, None)) is not None), None)
