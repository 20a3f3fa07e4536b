"""The README's picture of a run: what `normsurgery convert` prints of the GPT-2 that ships, as SVG.

The report up to its notes; they and the code that loads the result would double its height.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

from normsurgery.cli import main
from normsurgery.report import render

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "convert.svg"
MODEL = "tests/data/tiny-gpt2-6x96"
COLUMNS = 76
LAST = "Notes"  # the section before which the picture ends
_LINES = r'<text [^>]*\by="([\d.]+)"'
_ENDS = r'<rect x="0" [^>]*\bwidth="([\d.]+)"'
# No font from elsewhere, and no rounded window with buttons that do nothing.
FORMAT = """<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<title>normsurgery convert</title>
<style>
.{unique_id}-matrix {{
  font-family: "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
{styles}
</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="8" fill="#272822"/>
<g transform="translate(10, 10)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def run(output: Path) -> dict[str, Any]:
    """The document of a real run."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main(["convert", str(ROOT / MODEL), "-o", str(output), "--json"])
    document: dict[str, Any] = json.loads(printed.getvalue())
    assert code == 0, document
    return document


def drawn(document: dict[str, Any]) -> str:
    """The picture of a document's report, as SVG."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True,
        color_system="truecolor", markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    console.print(Text.assemble(("$ ", "dim"), f"normsurgery convert {MODEL} -o demo-out"))
    for part in _until({**document, "output": "demo-out"}):
        console.print(part)
    svg = console.export_svg(theme=MONOKAI, code_format=FORMAT, unique_id="run", title="")
    return _with_margin(re.sub(r"[ \t]+\n", "\n", svg))


def _with_margin(svg: str) -> str:
    """The picture as large as its text: rich counts no margin and cuts the last line."""
    width, height = (max(map(float, re.findall(found, svg))) + 30 for found in (_ENDS, _LINES))
    return re.sub(r'viewBox="[^"]+"', f'viewBox="0 0 {width:g} {height:g}"', svg)


def _until(document: dict[str, Any]) -> list[RenderableType]:
    parts = render(document)
    ends = [at for at, part in enumerate(parts) if isinstance(part, Text) and part.plain == LAST]
    return parts[: ends[0] - 1]  # an empty line stands above a heading


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PICTURE.write_text(drawn(run(Path(scratch, "demo-out"))), encoding="utf-8")
