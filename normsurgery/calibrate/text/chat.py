"""Conversations as rows of ids, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import UsageError

Messages = Sequence[Mapping[str, Any]]


def are_messages(value: object) -> bool:
    """Whether this is what a chat template takes: a list of {"role": …, "content": …}."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value)
    )


def chat_ids(tokenizer: Any, messages: Messages, *, where: str) -> list[int]:
    """One conversation's ids with the template's own special tokens.

    where: names the place for messages, such as `talks.jsonl, line 3`. UsageError where there is
    no template, or where it refuses the conversation.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise UsageError(
            f"{where} is a conversation, and the model's tokenizer has no chat template",
            "give plain text, with its column in --text-column",
        )
    try:
        with quiet():
            ids: list[int] = tokenizer.apply_chat_template(
                list(messages), tokenize=True, return_dict=True
            )["input_ids"]
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise UsageError(
            f"{where}: the model's chat template refuses the conversation: {error}",
            "check the roles and their order against the template",
        ) from None
    return ids
