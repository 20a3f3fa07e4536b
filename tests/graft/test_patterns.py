"""A few regular expressions for many names, matching exactly the wanted ones."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from normsurgery.graft.patterns import patterns

BLOCKS = [f"transformer.h.{i}.{leaf}" for i in range(12) for leaf in ("ln_1", "ln_2", "attn")]


def _matched(found, names):
    return {
        name: value
        for name in names
        for value in [next((v for p, v in found.items() if re.fullmatch(p, name)), None)]
        if value is not None
    }


def test_all_blocks_share_one_pattern_and_the_prefix_is_optional():
    wanted = {name: 1e-5 for name in BLOCKS if name.endswith("ln_1")}
    found = patterns(wanted, BLOCKS, prefix="transformer")
    assert list(found) == [r"(transformer\.)?h\.\d+\.ln_1"]
    assert re.fullmatch(next(iter(found)), "h.7.ln_1")


def test_a_block_that_differs_is_named_alone():
    wanted = {"transformer.h.0.ln_1": 1e-5, "transformer.h.1.ln_1": 1e-6}
    found = patterns(wanted, BLOCKS, prefix="transformer")
    assert _matched(found, BLOCKS) == wanted


@given(st.dictionaries(st.sampled_from(BLOCKS), st.integers(1, 3), min_size=1))
def test_whatever_is_wanted_is_matched_and_nothing_else(wanted):
    assert _matched(patterns(wanted, BLOCKS, prefix="transformer"), BLOCKS) == wanted
