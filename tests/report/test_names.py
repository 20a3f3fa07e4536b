import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normsurgery.report.names import folded, ranges


def expanded(pattern: str) -> list[str]:
    """Every name that a pattern stands for: an independent reading of the notation."""
    pieces = re.split(r"(\{[^}]*\})", pattern)
    choices = []
    for piece in pieces:
        if not piece.startswith("{"):
            choices.append([piece])
            continue
        numbers: list[str] = []
        for run in piece[1:-1].split(","):
            low, _, high = run.partition("-")
            numbers += [str(n) for n in range(int(low), int(high or low) + 1)]
        choices.append(numbers)
    return ["".join(parts) for parts in itertools.product(*choices)]


def test_repeated_blocks_fold_in_order_of_appearance():
    names = ["wte", *(f"h.{i}.ln_{j}" for i in range(12) for j in (1, 2)), "ln_f"]
    assert folded(names) == [
        ("wte", 1),
        ("h.{0-11}.ln_1", 12),
        ("h.{0-11}.ln_2", 12),
        ("ln_f", 1),
    ]


def test_a_ragged_product_stays_two_patterns():
    names = [f"l.{i}.e.{j}" for i in range(3) for j in range(4)] + ["l.3.e.0"]
    assert folded(names) == [("l.{0-2}.e.{0-3}", 12), ("l.3.e.0", 1)]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([4], "4"), ([0, 1], "{0,1}"), ([0, 1, 2], "{0-2}"), ([7, 0, 1, 2, 3], "{0-3,7}")],
)
def test_ranges(numbers, text):
    assert ranges(numbers) == text


part = st.one_of(st.sampled_from(["h", "mlp", "07", "x1"]), st.integers(0, 6).map(str))


@settings(deadline=None)
@given(st.lists(st.lists(part, min_size=1, max_size=4).map(".".join), max_size=30))
def test_patterns_stand_for_exactly_the_names(names):
    patterns = folded(names)
    stood_for = [name for pattern, _ in patterns for name in expanded(pattern)]
    assert sorted(stood_for) == sorted(set(names))
    assert [count for _, count in patterns] == [len(expanded(p)) for p, _ in patterns]
