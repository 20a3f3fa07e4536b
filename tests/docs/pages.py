"""A page of documentation as what it shows: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# What a block may be. The first row is run; of the second, yaml and json must be well formed.
RUN = ("bash", "console", "python")
SHOWN = ("yaml", "json", "toml", "text", "diff", "bibtex", "make")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<info>[^`]*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_EXIT = re.compile(r"#.*\bexit code (\d+)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, `title="…"` if it is a file, text, and first line's number."""

    language: str
    title: str | None
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """One command: its words, the exit code that the page promises, what it shows of the output."""

    text: str
    exit_code: int
    shown: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """As a shell would split them; what stands after `#` is gone."""
        return shlex.split(self.text, comments=True)


def pages() -> list[Path]:
    """README.md and every page of docs/, in the order of their names."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def blocks_of(text: str) -> list[Block]:
    """Every fenced block. Raises ValueError for one that is not closed."""
    found: list[Block] = []
    start: re.Match[str] | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if start is None:
            start, lines = fence, []
            continue
        if fence and fence["ticks"] == start["ticks"] and not fence["info"].strip():
            found.append(_block(start, lines, number - len(lines)))
            start = None
        else:
            lines.append(line.removeprefix(start["indent"]))
    if start is not None:
        raise ValueError(f"a block is not closed: {start[0]}")
    return found


def _block(start: re.Match[str], lines: list[str], line: int) -> Block:
    language, _, rest = start["info"].strip().partition(" ")
    title = _TITLE.search(rest)
    return Block(language, title[1] if title else None, "\n".join(lines) + "\n", line)


def commands_of(block: Block) -> list[Command]:
    r"""The commands of a bash or console block.

    A line that ends in `\` goes on in the next. In a console block a command stands after `$ `, and
    what follows is its output. `# exit code 4` after a command says what it ends with.
    """
    commands: list[Command] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console" and not line.startswith("$ "):
            last = commands.pop()
            commands.append(Command(last.text, last.exit_code, (*last.shown, line)))
            continue
        text = line.removeprefix("$ ").strip()
        code = _EXIT.search(text)
        command = Command(text, int(code[1]) if code else 0)
        if command.words:
            commands.append(command)
    return commands
