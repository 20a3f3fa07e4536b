"""What each token is: padding, first, end of a text, ordinary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from normsurgery.train.norms.tokens import END, FIRST, ORDINARY, PAD, Tokens, read_tokens

STOP = 7  # the end of a text
CPU = torch.device("cpu")
P, R, F, E = PAD, ORDINARY, FIRST, END


class _Cache:
    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def _table(**arguments: Any) -> list[list[int]]:
    given = {
        name: torch.tensor(value) if isinstance(value, list) else value
        for name, value in arguments.items()
    }
    table = read_tokens(given, STOP, counted=True).table
    assert table is not None
    return table.tolist()


IDS = [[1, 2, STOP, 3], [STOP, 1, 2, STOP]]
CASES: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "ids alone": ({"input_ids": IDS}, [[F, R, E, R], [F, R, R, E]]),
    "right padding": (
        {"input_ids": IDS, "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]]},
        [[F, R, E, R], [F, R, R, P]],
    ),
    "left padding": (
        {"input_ids": IDS, "attention_mask": [[0, 0, 1, 1], [0, 1, 1, 1]]},
        [[P, P, F, R], [P, F, R, E]],
    ),
    "rows packed one after the other": (
        {"input_ids": IDS, "position_ids": [[0, 1, 0, 1], [0, 1, 2, 3]]},
        [[F, R, F, R], [F, R, R, E]],
    ),
    "positions of one row for all": (
        {"input_ids": IDS, "position_ids": [[0, 1, 2, 3]]},
        [[F, R, E, R], [F, R, R, E]],
    ),
    "left padding and positions that generation clamps": (
        {
            "input_ids": IDS,
            "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]],
            "position_ids": [[0, 0, 0, 1], [0, 1, 2, 3]],
        },
        [[P, P, F, R], [F, R, R, E]],
    ),
    "a cache holds what came before": (
        {"input_ids": [[1, STOP]], "past_key_values": _Cache(3)}, [[R, E]],
    ),
    "a cache and left padding": (
        {
            "input_ids": [[1], [2]],
            "past_key_values": _Cache(2),
            "attention_mask": [[0, 0, 1], [0, 1, 1]],
        },
        [[F], [R]],
    ),
    "a cache, and a mask of the new tokens": (
        {"input_ids": [[1, 2, 3]], "past_key_values": _Cache(4), "attention_mask": [[1, 1, 0]]},
        [[R, R, P]],
    ),
    "an empty cache": ({"input_ids": [[1, 2]], "past_key_values": _Cache(0)}, [[F, R]]),
    "a mask that is longer than what runs": (
        {"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1, 1]]}, [[F, R]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_kinds(case: str) -> None:
    arguments, expected = CASES[case]
    assert _table(**arguments) == expected


def test_embeddings_instead_of_ids() -> None:
    given = {"inputs_embeds": torch.zeros(1, 3, 8), "attention_mask": torch.tensor([[0, 1, 1]])}
    table = read_tokens(given, STOP, counted=True).table
    assert table is not None and table.tolist() == [[P, F, R]]


def test_no_end_token() -> None:
    table = read_tokens({"input_ids": torch.tensor(IDS)}, None, counted=True).table
    assert table is not None and END not in table


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 2), [F, R, F, E]),
        ((4,), [F, R, F, E]),
        ((2, 2, 3), [F, F, F, R, R, R, F, F, F, E, E, E]),  # heads last
        ((2, 3, 2), [F, R, F, R, F, R, F, E, F, E, F, E]),  # heads before time
        ((4, 2), [F, F, R, R, F, F, E, E]),  # flat, with heads
        ((5,), [R] * 5),  # rows that are no tokens
    ],
)
def test_kinds_of_rows(shape: tuple[int, ...], expected: list[int]) -> None:
    tokens = Tokens(torch.tensor([[F, R], [F, E]]), started=False, counted=True)
    assert tokens.kinds(shape, CPU).tolist() == expected


@pytest.mark.parametrize(("started", "expected"), [(False, [F, R, R] * 2), (True, [R] * 6)])
def test_without_text_the_first_row_is_first(started: bool, expected: list[int]) -> None:
    assert Tokens(None, started, True).kinds((2, 3), CPU).tolist() == expected
