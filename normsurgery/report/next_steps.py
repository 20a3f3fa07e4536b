"""What to do after a command: one or two lines to copy, at the end of its report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from normsurgery.naming import output_name
from normsurgery.report.checks import forms_of

Document = Mapping[str, Any]

# What a line needs beside what `inspect` calls the surgery; None: nothing that we could make up.
_NEEDED: dict[str, str | None] = {"prune": "--drop 25%", "arrange": None, "heal": None}
_COPIES = ("LIST", "N")  # stand for a value in what `inspect` calls a surgery


@dataclass(frozen=True)
class Asked:
    """The model as the user named it, and what any command that opens it must be allowed.

    other: the second model of a command that takes two.
    """

    model: str
    other: str = ""
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def line(self, command: str, *words: str, options: str = "") -> str:
        """`normsurgery COMMAND WORDS… OPTIONS`, the words quoted for a shell."""
        flags = ["--trust-remote-code"] if self.trust_remote_code else []
        flags += ["--allow-pickle"] if self.allow_pickle else []
        quoted = [shlex.quote(word) for word in words]
        return " ".join(x for x in ["normsurgery", command, *quoted, options, *flags] if x)


def next_lines(document: Document, asked: Asked) -> list[str]:
    """Lines for a shell, comments among them; empty where there is nothing to say."""
    command = document["command"]
    if document.get("preview"):
        return []  # the error that ends it says what to add
    if command == "inspect":
        return _after_inspect(document, asked)
    if command == "verify":
        return _after_verify(document, asked)
    if not document.get("output"):
        return ["# the same command without --dry-run writes it"]
    return _after_surgery(document, asked)


def _after_inspect(document: Document, asked: Asked) -> list[str]:
    """The first exact surgery that applies, else the first of any kind."""
    applying = [one for one in document["surgeries"] if one["applies"]]
    applying.sort(key=lambda one: one["contract"] != "exact")  # stable: their order stays
    for one in applying:
        command, *words = one["name"].split()
        needed = _NEEDED.get(command.rstrip(","), "")
        if needed is None:
            continue
        options = _options(words, needed)
        output = output_name(command, asked.model, _values(words))
        return [
            asked.line(command, asked.model, options=f"-o {shlex.quote(output)} {options}".strip()),
            "# with --dry-run it shows the plan and writes nothing",
        ]
    return []


def _options(words: list[str], needed: str) -> str:
    """What `inspect` names, its placeholders replaced by values that one can start from."""
    text = " ".join(words)
    if needed and words and words[-1] in _COPIES:
        return needed
    return f"{needed} {text}".strip()


def _values(words: list[str]) -> dict[str, str]:
    """`--to crmsnorm` → {"to": "crmsnorm"}."""
    return {name[2:]: value for name, value in pairwise(words) if name.startswith("--")}


def _after_verify(document: Document, asked: Asked) -> list[str]:
    both = (asked.model, asked.other)
    verification = document["verification"]
    if verification["verdict"] != "fail":
        return [asked.line("inspect", asked.other) + "  # what applies to it now"]
    if verification["contract"] != "exact":
        return []
    told = "  # tells a wrong result from rounding"
    return [asked.line("verify", *both, options="--against-float64") + told]


def _after_surgery(document: Document, asked: Asked) -> list[str]:
    verification, output = document["verification"], document["output"]
    contract = verification["contract"]
    promise = "" if contract == "exact" else f"--contract {contract} "
    text = _reads_text(document)
    data = f"{promise}--data {'held-out.txt' if text else 'PATH'}"
    lines = [asked.line("verify", asked.model, output, options=data)]
    if document["command"] == "prune" and document.get("losses"):
        healed = output_name("heal", output, {})
        teacher = f"-o {shlex.quote(healed)} --teacher {shlex.quote(asked.model)}"
        lines.append(asked.line("heal", output, options=teacher))
    if document.get("losses") or document.get("samples"):
        lines.append(f"{Asked(output).line('report', output)}  # one page, to read and to pass on")
    return lines


def _reads_text(document: Document) -> bool:
    """Whether what was verified counts in tokens; a causal model where nothing was."""
    forms = forms_of(document["verification"]).values()
    units = [one.get("unit", "tokens") for one in forms if one.get("tokens")]
    if units:
        return bool(units[0] == "tokens")
    return "LM" in (document["target"].get("auto_class") or "")
