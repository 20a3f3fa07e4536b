"""How every surgery ends: the result is staged, verified, given its papers and moved into place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normsurgery.anatomy.runtime import single_thread
from normsurgery.api.asked import resolved_recipe
from normsurgery.api.document import peak_memory_bytes
from normsurgery.api.handover import Claim, current
from normsurgery.api.plotting import drawn
from normsurgery.api.sizes import parse_size
from normsurgery.checkpoint import (
    Checkpoint,
    FileRecord,
    Staging,
    check_destination,
    hash_files,
    open_checkpoint,
    planned_bytes,
    write_weights,
)
from normsurgery.errors import VerificationError
from normsurgery.hub.outputs import PAPERS
from normsurgery.plots import check_matplotlib
from normsurgery.report.card import card_record, model_card
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.receipt import Receipt, config_changes
from normsurgery.version import VERSION

Verify = Callable[[Path], dict[str, Any]]
"""Verifies a staged directory; its document has "verdict" and one document a form."""

UNVERIFIED = {"verdict": "skipped", "contract": "exact"}
# A source that is a result of ours has these too; they are written anew.
_OUR_PAPERS = ("surgery.json", "README.md")
_NOT_IN_PAPERS = ("output", "seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class Writing:
    """How a result is written. max_shard_size: as the option spells it. plots: whether pictures
    of what was measured are drawn."""

    output: Path
    overwrite: bool = False
    max_shard_size: int | str | None = None
    keep_failed: bool = False
    allow_nonfinite: bool = False
    allow_pickle: bool = False
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    plots: bool = False

    def open_source(self, model: str | Path) -> Checkpoint:
        """The source, once it is clear that the output can be written; in a pass what it is given.

        Raises UsageError for a bad size, a destination that exists or holds the source, and for
        pictures where matplotlib is not installed.
        """
        if self.plots:
            check_matplotlib()
        parse_size(self.max_shard_size)
        handed = current()
        if handed is not None:  # the destination is of the whole pass, and checked already
            return handed.source
        check_destination(self.output, overwrite=self.overwrite, source=None)  # before a download
        checkpoint = open_checkpoint(model, allow_pickle=self.allow_pickle)
        check_destination(self.output, overwrite=self.overwrite, source=checkpoint.directory)
        return checkpoint

    def offer(self, source: Checkpoint, result: Checkpoint, claim: Claim) -> None:
        """Where the surgery is a part of a pass, hand its result on; else nothing happens.

        Raises NotFusedError where the result has to be written before anybody can go on.
        """
        handed = current()
        if handed is not None:
            handed.offer(source, result, claim, self)

    def plan(
        self, source: Checkpoint, result: Checkpoint, receipts: Sequence[Receipt], contract: str
    ) -> dict[str, Any]:
        """What a dry run says would be written; reads headers only."""
        parent = self.output.absolute().parent
        while not parent.exists():
            parent = parent.parent
        changed = {name for receipt in receipts for name in receipt.changed}
        largest = max((tensor.nbytes for tensor in result.values()), default=0)
        return {
            "bytes": planned_bytes(result),
            "disk_free": shutil.disk_usage(parent).free,
            "disk_needed": planned_bytes(result),
            "peak_memory_bytes": peak_memory_bytes() + 2 * largest,
            "config_diff": config_changes(source.config, result.config),
            "contract": contract,
            "tensors": _tensor_counts(source, result, changed),
        }

    def write(
        self,
        source: Checkpoint,
        result: Checkpoint,
        document: dict[str, Any],
        verify: Verify,
        *,
        notes: Sequence[str] = (),
        beside: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Stage, verify and publish; what this adds to the document.

        document: what is known so far, with the recipe; it becomes `surgery.json` and the card.
        verify: is given the staged directory; a verdict of fail raises VerificationError, and
        nothing is published. notes: what the card says is not guaranteed. beside: a mapping that
        `verify` fills with what else the papers should say. In a pass nothing is written: the
        papers are handed on too.
        """
        handed = current()
        if handed is not None:
            handed.record(_identified(source, document, self.seed), notes)
            return {"output": str(self.output), "verification": dict(UNVERIFIED)}
        with Staging(
            self.output,
            overwrite=self.overwrite,
            source=source.directory,
            needed_bytes=planned_bytes(result),
        ) as staging:
            files = self._weights(result, staging.path)
            verification = verify(staging.path)
            added: dict[str, Any] = {"output": str(self.output), "verification": verification}
            papers = {**document, **(beside or {}), **added}
            if self.plots:
                added["plots"], pictures = drawn(papers, staging.path)
                papers["plots"], files = added["plots"], [*files, *pictures]
            _write_papers(staging.path, source, papers, files, seed=self.seed, notes=notes)
            if verification["verdict"] == "fail":
                self._fail(staging, verification)
            staging.publish()
        return added

    def _weights(self, result: Checkpoint, staged: Path) -> list[FileRecord]:
        # One thread: slabs fit the cache, and torch's idle threads would spin for nothing.
        task = self.progress.task("write", planned_bytes(result), "bytes")
        with single_thread(), task as advance:
            return write_weights(
                result,
                staged,
                max_shard_bytes=parse_size(self.max_shard_size),
                refuse_nonfinite=not self.allow_nonfinite,
                progress=advance,
            )

    def _fail(self, staging: Staging, verification: Mapping[str, Any]) -> None:
        failed = [
            f"{form}: {one.get('why') or 'see the figures'}"
            for form, one in verification.items()
            if isinstance(one, dict) and one.get("verdict") == "fail"
        ]
        hint = "--keep-failed keeps the result aside for study"
        if self.keep_failed:
            kept = self.output.with_name(f"{self.output.name}.failed")
            staging.keep(kept)
            hint = f"the result is kept in {kept}"
        raise VerificationError(f"verification failed, {'; '.join(failed)}", hint)


def _tensor_counts(source: Checkpoint, result: Checkpoint, changed: set[str]) -> dict[str, int]:
    added = [name for name in result if name not in source]
    return {
        "kept": len(result) - len(added) - len(changed & set(result)),
        "changed": len(changed & set(result)),
        "added": len(added),
        "dropped": sum(name not in result for name in source),
    }


def _write_papers(
    staged: Path,
    source: Checkpoint,
    document: dict[str, Any],
    files: Sequence[FileRecord],
    *,
    seed: int,
    notes: Sequence[str],
) -> None:
    """surgery.json and the model card: no local path and no time, so that runs agree."""
    papers = _identified(source, document, seed)
    papers["files"] = {
        "source": {record.name: record.sha256 for record in hash_files(source.weight_files)},
        # The papers of a source that is an output itself are replaced below.
        "result": {one.name: one.sha256 for one in files if one.name not in _OUR_PAPERS},
    }
    papers["config_diff"] = config_diff(source, staged)
    card = staged / "README.md"
    source_card = card.read_text("utf-8", "surrogateescape") if card.is_file() else None
    write_papers(staged, papers, source_card, notes=notes)


def _identified(source: Checkpoint, document: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The document with what it takes to make the result again."""
    papers = {**document, "versions": _versions(), "seed": seed}
    if "recipe" in papers:
        papers["recipe"] = resolved_recipe(source, papers["recipe"])
    return papers


def write_papers(
    staged: Path, document: Mapping[str, Any], source_card: str | None, *, notes: Sequence[str]
) -> None:
    """surgery.json and the model card of a staged directory; a card's odd bytes are kept."""
    papers = {key: value for key, value in document.items() if key not in _NOT_IN_PAPERS}
    papers["card"] = card_record(papers, source_card, notes)
    text = json.dumps(papers, indent=2, ensure_ascii=False) + "\n"
    (staged / PAPERS).write_text(text, encoding="utf-8")
    card = model_card(papers, source_card, notes=notes)
    (staged / "README.md").write_text(card, encoding="utf-8", errors="surrogateescape")


def config_diff(source: Checkpoint, staged: Path) -> dict[str, list[Any]]:
    """Keys of config.json that differ between the source and the saved result: [old, new]."""
    saved = json.loads((staged / "config.json").read_text(encoding="utf-8"))
    return config_changes(source.config, saved)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "safetensors")
    return {"normsurgery": VERSION, **{name: version(name) for name in names}}
