"""What mkdocs does beside Markdown: formulas, the tables of commands and of recipe keys.

Formulas become MathML, which browsers show without a script. The tables are made of what the
program itself checks, so that they cannot say anything else.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).parents[1]
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.S
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page has their marker."""
    for name, make in MARKERS.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Turn every formula that arithmatex has marked into MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    block = found["tag"] == "div"
    text = convert(html.unescape(found["tex"]), display="block" if block else "inline")
    return f'<span class="math-block">{text}</span>' if block else text


def commands() -> str:
    """Every command with its description and its options, from the Typer application."""
    from typer.main import get_command

    from normsurgery.cli.app import app

    group: Any = get_command(app)
    return "\n\n".join(_command(name, group.commands[name]) for name in group.commands)


def _command(name: str, command: Any) -> str:
    text = command.help.split("\b")[0].strip()
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    rows = [f"| `{p.metavar or p.name.upper()}` | {_cell(p.help or '')} |" for p in arguments]
    rows += [f"| {_spelled(p)} | {_meaning(p)} |" for p in options if not p.hidden]
    head = "| argument or option | meaning |\n|---|---|"
    return "\n".join([f"## normsurgery {name}\n", text + "\n", head, *rows])


def _spelled(option: Any) -> str:
    names = sorted([*option.opts, *option.secondary_opts], key=lambda one: not one.startswith("--"))
    value = "" if option.is_flag or _words(option) else f" {option.metavar or _kind(option)}"
    return ", ".join([f"`{names[0]}{value}`", *(f"`{name}`" for name in names[1:])])


def _words(option: Any) -> tuple[str, ...]:
    """The words that the option takes, where it takes no others."""
    return tuple(w for w in get_args(option.type_descriptor.annotation) if isinstance(w, str))


def _kind(option: Any) -> str:
    return str(option.type_descriptor.annotation.__name__).upper()


def _meaning(option: Any) -> str:
    """What the option does, its default, and its words: the help as a table's cell."""
    known = option.default not in (None, "", []) and not (
        option.is_flag or callable(option.default)
    )
    shown = known and "[default" not in (option.help or "")
    said = _cell(f"{option.help or ''}{f' [default: {option.default}]' if shown else ''}")
    words = () if option.is_flag else _words(option)
    return f"{said} One of {', '.join(f'`{word}`' for word in words)}." if words else said


def _cell(text: str) -> str:
    escaped = " ".join(text.split()).replace("|", "\\|")
    return re.sub(r"([<>_*])", r"\\\1", escaped)


def recipe_keys() -> str:
    """Every key of a recipe, from the schema that editors use."""
    path = ROOT / "recipes" / "recipe.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    return "\n\n".join(_sections(schema))


def _sections(schema: dict[str, Any]) -> Iterator[str]:
    yield "### At the top\n\n" + _keys(schema)
    parts: dict[str, Any] = schema.get("$defs", {})
    for name, said in schema["properties"].items():
        for one in said.get("anyOf", ()):
            part = parts.get(one.get("$ref", "").rpartition("/")[2], one)
            if "properties" in part:
                yield f"### Under `{name}`\n\n{_keys(part)}"
    for part in parts.values():
        surgery = part.get("properties", {}).get("surgery")
        if surgery:
            yield f"### `surgery: {surgery['const']}`\n\n{part['description']}\n\n{_keys(part)}"


def _keys(part: dict[str, Any]) -> str:
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, said in part["properties"].items():
        if "const" in said:
            continue
        needed = key in part.get("required", ())
        default = "needed" if needed else _value(said.get("default"))
        rows.append(f"| `{key}` | {_takes(said)} | {default} | {_cell(_text(said))} |")
    return "\n".join(rows)


def _text(said: dict[str, Any]) -> str:
    return str(said.get("description", "what the command's option of that name says"))


def _takes(said: dict[str, Any]) -> str:
    if "enum" in said:
        return ", ".join(f"`{one}`" for one in said["enum"] if one is not None)
    kinds = said.get("type", [one.get("type", "object") for one in said.get("anyOf", ())])
    flat: list[str] = []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        flat.extend([kind] if isinstance(kind, str) else kind)
    return ", ".join(dict.fromkeys(kind for kind in flat if kind != "null"))


def _value(default: object) -> str:
    return "" if default is None else f"`{json.dumps(default)}`"


def public_names() -> str:
    """The public names, functions in the order of the commands, for mkdocstrings to fill in.

    Each is named by the module that it comes from: some share their name with a subpackage.
    """
    from normsurgery import _HOME_OF
    from normsurgery.cli.app import app

    functions = [one.callback.__name__ for one in app.registered_commands if one.callback]
    errors = [name for name in _HOME_OF if name.endswith("Error") and name != "SurgeryError"]
    sections = {
        "Functions": functions,
        "Results": sorted(name for name in _HOME_OF if name.endswith("Result")),
        "Errors": ["SurgeryError", *sorted(errors)],
    }
    return "\n\n".join(
        "\n\n".join([f"## {title}", *(_documented(name, _HOME_OF[name]) for name in names)])
        for title, names in sections.items()
    )


def _documented(name: str, home: str) -> str:
    options = f"    options:\n      heading: normsurgery.{name}\n      toc_label: {name}"
    return f"::: normsurgery.{home}.{name}\n{options}"


MARKERS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "recipe keys": recipe_keys,
    "public names": public_names,
}
