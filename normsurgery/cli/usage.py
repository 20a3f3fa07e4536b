"""What the user typed wrong, and what was probably meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from normsurgery.errors import UsageError
from normsurgery.naming import output_name
from normsurgery.nearest import did_you_mean

_COMMAND = re.compile(r"No such command (?P<quote>['\"])(?P<word>.*)(?P=quote)")
_CHOICE = re.compile(r"'(?P<word>[^']*)' is not one of (?P<choices>'.*')")
_CHOICES = re.compile(r"'([^']*)'")


def usage_error(raised: Any) -> UsageError:
    """The error for an exception of Typer's parser: its message, and the likeliest spelling."""
    if getattr(getattr(raised, "param", None), "name", None) == "output" and _is_missing(raised):
        return _no_output(raised.ctx)
    message = getattr(raised, "message", "") if _is_option(raised) else raised.format_message()
    command = raised.ctx.command_path if raised.ctx else "normsurgery"
    meant = _meant(raised, message) if raised.ctx else ""
    text = message.replace("Value error, ", "").rstrip(".")
    return UsageError(text, f"{meant}{command} --help")


def _meant(raised: Any, message: str) -> str:
    if _is_option(raised):
        return _option_meant(raised.option_name, raised.ctx)
    if found := _COMMAND.search(message):
        return did_you_mean(found["word"], raised.ctx.command.commands)
    if found := _CHOICE.search(message):
        return did_you_mean(found["word"], _CHOICES.findall(found["choices"]))
    return ""


def _is_missing(raised: Any) -> bool:
    return hasattr(raised, "param_type")  # Typer's MissingParameter has no public name


def _no_output(context: Any) -> UsageError:
    """-o is not guessed, since what is written takes room for years: a name is proposed."""
    given = context.params
    name = output_name(context.info_name, str(given["model"]), given)
    return UsageError(
        "Missing option '--output' / '-o': where to write, nothing was written",
        f"-o {shlex.quote(name)}",
    )


def _is_option(raised: Any) -> bool:
    return hasattr(raised, "possibilities")  # Typer's NoSuchOption has no public name


def _option_meant(option: str, context: Any) -> str:
    """The commands that have it as it is; else an option of this command that is like it."""
    others = getattr(context.parent.command, "commands", {}) if context.parent else {}
    having = [name for name, command in others.items() if option in _options(command, context)]
    if having:
        return f"it is an option of {', '.join(having)}; "
    return did_you_mean(option, _options(context.command, context))


def _options(command: Any, context: Any) -> Iterator[str]:
    """The long options of a command, --help among them."""
    for parameter in command.get_params(context):
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name.startswith("--"):
                yield name
