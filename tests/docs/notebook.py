"""Runs a notebook's cells in one namespace, and keeps what a notebook's reader would see.

`python -m tests.docs.notebook FILE.ipynb` runs it in its own directory and stores the outputs.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
_PARAMETERS = "parameters"  # the tag of the cell whose names a run may replace


def execute(notebook: Notebook, replaced: dict[str, Any] | None = None) -> list[list[Any]]:
    """Run the code cells in order; the outputs of each, as nbformat 4 has them.

    replaced: names that get other values after the cell tagged "parameters".
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(code_cells(notebook), 1):
        found.append(_run("".join(cell["source"]), names, number))
        if _PARAMETERS in cell["metadata"].get("tags", ()):
            names.update(replaced or {})
    return found


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run(source: str, names: dict[str, Any], number: int) -> list[Any]:
    """One cell: what it prints, and the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value, where = io.StringIO(), None, f"cell {number}"
    with redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    outputs: list[Any] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        shown = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append({**shown, "data": _bundle(value)})
    return outputs


def _bundle(value: Any) -> dict[str, Any]:
    """The forms of a value that a notebook stores: as IPython chooses them."""
    if hasattr(value, "savefig"):  # a figure of matplotlib
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=80, metadata={"Software": None})
        data = base64.b64encode(picture.getvalue()).decode()
        return {"image/png": data, "text/plain": ["<Figure>"]}
    if html := getattr(value, "_repr_html_", lambda: None)():
        return {"text/html": html.splitlines(keepends=True), "text/plain": [type(value).__name__]}
    return {"text/plain": repr(value).splitlines(keepends=True)}


def store(path: Path) -> None:
    """Run a notebook in its own directory, and write it with what it showed."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    path = path.absolute()
    os.chdir(path.parent)
    for number, (cell, outputs) in enumerate(
        zip(code_cells(notebook), execute(notebook), strict=True), 1
    ):
        cell |= {"outputs": outputs, "execution_count": number}
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    store(Path(sys.argv[1]))
