"""What one surgery did, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from normsurgery.report.names import folded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from normsurgery.checkpoint import Checkpoint


@dataclass(frozen=True)
class Receipt:
    """One surgery's contract, parameters and the tensors and config keys that it touched.

    kept + changed + added = tensors in the result; dropped are in the source only.
    config: key → [old, new]. norms: how many LayerNorms read a stream before and after.
    """

    surgery: str
    contract: str
    parameters: dict[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    kept: int = 0
    config: dict[str, list[Any]] = field(default_factory=dict)
    norms: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The receipt as it stands in documents and in `surgery.json`.

        Tensors are counted; those that were touched are named, repeated blocks in one pattern.
        """
        return {
            "surgery": self.surgery,
            "contract": self.contract,
            "parameters": self.parameters,
            "tensors": {
                "kept": self.kept,
                "changed": len(self.changed),
                "added": len(self.added),
                "dropped": len(self.dropped),
            },
            "names": {
                "changed": _patterns(self.changed),
                "added": _patterns(self.added),
                "dropped": _patterns(self.dropped),
            },
            "config": self.config,
            "norms": self.norms,
            "notes": list(self.notes),
        }


def _patterns(names: Iterable[str]) -> list[str]:
    return [pattern for pattern, _ in folded(names)]


def receipt_of(
    surgery: str,
    before: Checkpoint,
    after: Checkpoint,
    *,
    changed: Iterable[str],
    parameters: dict[str, Any] | None = None,
    norms: dict[str, dict[str, int]] | None = None,
    notes: Iterable[str] = (),
) -> Receipt:
    """An exact surgery's receipt, its counts taken from the two checkpoints themselves."""
    added = tuple(name for name in after if name not in before)
    dropped = tuple(name for name in before if name not in after)
    touched = tuple(sorted(set(changed)))
    return Receipt(
        surgery, "exact", parameters or {}, touched, added, dropped,
        kept=len(after) - len(added) - len(touched),
        config=config_changes(before.config, after.config),
        norms=norms or {}, notes=tuple(notes),
    )  # fmt: skip


def config_changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """Keys whose value differs, with [old, new]; None where a key is absent."""
    keys = dict.fromkeys([*before, *after])
    return {
        key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)
    }
