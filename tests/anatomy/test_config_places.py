from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.anatomy.config_places import (
    compressed,
    edited,
    find,
    integers,
    pattern_length,
    written_out,
)

CONFIG = SimpleNamespace(
    attribute_map={"num_hidden_layers": "n_layer"},
    text_config=SimpleNamespace(attribute_map={}),
    to_dict=lambda: {"n_layer": 4, "text_config": {"depth": 4, "width": 8}},
)


def test_integers_with_their_places_and_no_truth_values():
    tree = {"a": 1, "b": [2, {"c": 3}], "d": True, "e": "4", "f": 5.0}
    assert dict(integers(tree)) == {("a",): 1, ("b", 0): 2, ("b", 1, "c"): 3}


def test_a_place_is_found_under_another_name_and_in_a_flat_file():
    assert find({"num_hidden_layers": 4}, ("n_layer",), CONFIG) == ("num_hidden_layers",)
    assert find({"depth": 4}, ("text_config", "depth"), CONFIG) == ("depth",)
    assert find({"text_config": {}}, ("text_config", "depth"), CONFIG) is None


def test_edits_go_where_the_file_says_it_and_leave_the_rest():
    written = {"num_hidden_layers": 4, "x": [1], "depth": 4}
    after = edited(written, {("n_layer",): 3, ("text_config", "depth"): 2}, CONFIG)
    assert after == {"num_hidden_layers": 3, "x": [1], "depth": 2}
    assert written == {"num_hidden_layers": 4, "x": [1], "depth": 4}


def test_a_part_that_the_file_leaves_out_is_written_out_whole():
    after = edited({"y": 1}, {("text_config", "depth"): 2}, CONFIG)
    assert after == {"y": 1, "text_config": {"depth": 2, "width": 8}}


def test_a_compressed_pattern_is_written_out_and_put_back():
    value = [[["global", "local"], 2], [["local"], 1]]
    assert pattern_length(value) == 5
    assert written_out(value) == ["global", "local", "global", "local", "local"]
    assert compressed(["local", "global"], value) == [[["local", "global"], 1]]
    assert compressed(["M", "-"], "M-") == "M-"


@pytest.mark.parametrize("value", [[], "ab", ["a", "b"], [[1, 2]], [["a"], 2], None, [[[], 2]]])
def test_other_lists_are_no_patterns(value):
    assert pattern_length(value) is None


@given(
    st.lists(st.tuples(st.lists(st.sampled_from("gl"), min_size=1), st.integers(1, 4)), min_size=1)
)
def test_writing_out_keeps_the_length(pairs):
    value = [[kinds, times] for kinds, times in pairs]
    entries = written_out(value)
    assert len(entries) == pattern_length(value)
    assert written_out(compressed(entries, value)) == entries
