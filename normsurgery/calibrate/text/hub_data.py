"""Data sets of the Hub, and directories in a data set's layout, streamed through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.calibrate.text.documents import FORMATS, Documents, chosen
from normsurgery.errors import HubError, SurgeryError, UsageError
from normsurgery.nearest import nearest

_NAME = re.compile(r"(?P<name>[^:@\s]+)(:(?P<config>[^:@\s]+))?(@(?P<split>[^:@\s]+))?")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_MADE_OF = "owner/name[:config][@split]"


@dataclass(frozen=True)
class DataSet:
    """`owner/name[:config][@split]`, or a directory in the place of owner/name."""

    name: str
    config: str | None = None
    split: str = "train"

    @property
    def shown(self) -> str:
        """What errors and surgery.json call it: of a directory, its own name only."""
        path = Path(self.name)
        name = path.resolve().name if path.is_dir() else self.name
        config = "" if self.config is None else f":{self.config}"
        return f"{name}{config}@{self.split}"


def parse(data: str) -> DataSet:
    """UsageError for what is neither a directory nor a Hub id."""
    found = _NAME.fullmatch(data)
    if Path(data).is_dir():
        return DataSet(data)
    if not found or not (Path(found["name"]).is_dir() or _HUB_ID.fullmatch(found["name"])):
        raise UsageError(
            f"{data!r} is neither a file, nor a directory, nor the id of a data set",
            f"a file ends in {', '.join(FORMATS)}; a data set of the Hub is {_MADE_OF}",
        )
    return DataSet(found["name"], found["config"], found["split"] or "train")


def dataset_documents(asked: DataSet, text_column: str) -> Documents:
    """The rows of one split as they come over the network; nothing is downloaded whole.

    UsageError: no such data set, configuration, split or column. HubError: it cannot be reached.
    """
    stream = _opened(asked)
    about = {"source": asked.shown, "text_column": text_column}
    return Documents(chosen(_rows(stream, asked), text_column, name=asked.shown), about)


def _opened(asked: DataSet) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"{asked.name}: reading a data set needs the datasets library",
            "pip install normsurgery[data]",
        ) from None
    with _told(asked):
        return load_dataset(asked.name, asked.config, split=asked.split, streaming=True)


def _rows(stream: Any, asked: DataSet) -> Iterator[tuple[str, dict[str, Any]]]:
    with _told(asked):
        for number, row in enumerate(stream, 1):
            yield f"row {number}", row


@contextmanager
def _told(asked: DataSet) -> Iterator[None]:
    """What `datasets` raises, as one line and one hint."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except SurgeryError:
        raise
    except DatasetNotFoundError as error:
        raise UsageError(f"there is no data set {asked.name}: {_line(error)}", _hint(asked)) from (
            error
        )
    except ConnectionError as error:
        raise HubError(
            f"data set {asked.shown}: {_line(error)}",
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or give a local file",
        ) from error
    except (ValueError, FileNotFoundError, DatasetsError) as error:
        raise UsageError(
            f"data set {asked.shown}: {_line(error)}", _choice(asked, error)
        ) from error
    except OSError as error:
        raise HubError(f"data set {asked.shown}: {_line(error)}", "try it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _hint(asked: DataSet) -> str:
    if "/" not in asked.name:
        return f"a data set of the Hub is {_MADE_OF}; a file ends in {', '.join(FORMATS)}"
    return "check the spelling; a private or gated one needs HF_TOKEN or `hf auth login`"


def _choice(asked: DataSet, error: Exception) -> str:
    """The nearest of the splits or configurations that `datasets` lists in its message."""
    listed = re.search(r"[Aa]vailable[^:]*: \[(?P<names>.*?)\]", str(error), re.S)
    names = re.findall(r"'([^']+)'", listed["names"]) if listed else []
    wanted = asked.split if "split" in str(error) else asked.config or ""
    near = nearest(wanted, names, cutoff=0.3)
    return f"did you mean {near}?" if near else f"a data set is {_MADE_OF}"
