"""A Markdown template that a person wrote: rendered, or refused with its line.

Jinja2 comes with torch. A template may come from somebody else: it runs in Jinja's sandbox, reads
nothing but the values it is given, and includes no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from types import TracebackType
from typing import TYPE_CHECKING, Any

from normsurgery.checkpoint.text import shown
from normsurgery.errors import UsageError
from normsurgery.nearest import did_you_mean
from normsurgery.report.markdown import cell, literal, row

if TYPE_CHECKING:
    from jinja2 import Environment, StrictUndefined, Template, nodes

SHIPPED = "card_template.md"
_IN_TEMPLATE = "<template>"  # the file name that Jinja gives to a template made of a string
_SEE = "normsurgery card --print-template names all in the comment at its top"


def shipped_template() -> str:
    """The template that comes with the package."""
    return files("normsurgery.report").joinpath(SHIPPED).read_text(encoding="utf-8")


def rendered(text: str, values: Mapping[str, Any], name: str = SHIPPED) -> str:
    """The template with the values put in, blank lines never more than one in a row.

    name: how errors call the template. Raises UsageError with the line for a template that does
    not parse, a name that does not exist (with the nearest one that does), and whatever else goes
    wrong in it.
    """
    import jinja2

    try:
        tree, template = _compiled(text)
        _check_names(tree, template, values, name)
        found = template.render(values)
    except jinja2.TemplateSyntaxError as error:
        raise _refused(name, error.lineno, str(error.message), _SEE) from None
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError,
            ValueError, RecursionError) as error:  # fmt: skip
        raise _refused(name, _line(error.__traceback__), str(error), _SEE) from None
    return _tidy(found)


def _refused(name: str, line: int | None, message: str, hint: str) -> UsageError:
    where = shown(name) if line is None else f"{shown(name)}, line {line}"
    return UsageError(f"{where}: {message}", hint)


@lru_cache(maxsize=4)  # a process may write many cards, and compiling takes longer than filling
def _compiled(text: str) -> tuple[nodes.Template, Template]:
    environment = _environment()
    return environment.parse(text), environment.from_string(text)


def _environment() -> Environment:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=_strict(), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"row": _row, "rule": _rule, "cell": _cell, "literal": _literal}
    return environment


def _row(cells: Iterable[Any]) -> str:
    return row([str(one) for one in cells])


def _rule(cells: Sequence[Any]) -> str:
    return row(["---"] * len(cells))


def _cell(text: Any) -> str:
    return cell(str(text))


def _literal(text: Any) -> str:
    return literal(str(text))


def _strict() -> type[StrictUndefined]:
    from jinja2 import StrictUndefined

    class Strict(StrictUndefined):
        """A value that is not there is an error when it is used; it says what is alike."""

        @property
        def _undefined_message(self) -> str:
            held = self._undefined_obj
            known = [str(key) for key in held] if isinstance(held, Mapping) else []
            if not known:
                return str(super()._undefined_message)
            near = did_you_mean(str(self._undefined_name), known)
            said = near.rstrip() or f"there are {', '.join(known)}"
            return f"{self._undefined_name!r} is not in it; {said}"

    return Strict


def _check_names(
    tree: nodes.Template, template: Template, values: Mapping[str, Any], name: str
) -> None:
    """Raises UsageError for a variable that does not exist, also where it would not be reached."""
    from jinja2 import meta, nodes

    names = list(tree.find_all(nodes.Name))
    # A `set` in one branch of an `if` counts as undeclared there.
    made = {node.name for node in names if node.ctx == "store"}
    unknown = meta.find_undeclared_variables(tree) - {*values, *template.globals, *made}
    for node in names:
        if node.name in unknown:
            message = f"there is no variable {shown(node.name)}"
            raise _refused(name, node.lineno, message, f"{did_you_mean(node.name, values)}{_SEE}")


def _line(trace: TracebackType | None) -> int | None:
    """The line of the template in which an error came up."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _IN_TEMPLATE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _tidy(text: str) -> str:
    """No blank line twice in a row outside code, none at either end: blocks that say nothing
    leave none behind."""
    lines: list[str] = []
    code = False
    for line in text.strip("\n").split("\n"):
        code ^= line.startswith("```")
        if line.strip() or code or (lines and lines[-1].strip()):
            lines.append(line if code else line.rstrip() if not line.strip() else line)
    return "\n".join(lines)
