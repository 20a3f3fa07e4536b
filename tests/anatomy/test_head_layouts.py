"""Which rows of a projection are keys and values, on sizes small enough to write down."""

from __future__ import annotations

import pytest
from transformers import FalconConfig, GPT2Config, LlamaConfig

from normsurgery.anatomy.head_layouts import Layout, head_keys, layouts, told_apart

HEADS = ("num_attention_heads",)


def rows(name, size, width, heads):
    found = Layout(name, HEADS).rows(size, width, {"num_attention_heads": heads}, LlamaConfig())
    return None if found is None else (found.keys.tolist(), found.values.tolist())


@pytest.mark.parametrize(
    ("name", "size", "width", "heads", "expected"),
    [
        ("alone", 4, 4, 2, ([0, 1, 2, 3], [0, 1, 2, 3])),
        ("alone", 2, 4, 2, None),
        ("thirds", 6, 2, 1, ([2, 3], [4, 5])),
        ("thirds", 5, 2, 1, None),
        ("repeated", 4, 8, 4, ([0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 2, 3])),
        ("repeated", 3, 8, 4, None),  # no whole heads
        ("repeated", 6, 8, 4, None),  # 3 heads do not share 4
        ("tail", 8, 4, 4, ([4, 5], [6, 6, 7, 7])),
        ("tail", 7, 4, 4, None),
        ("tail", 4, 4, 4, None),
        ("head by head", 12, 4, 2, ([2, 3, 8, 9], [4, 5, 10, 11])),
        ("head by head", 8, 4, 2, None),
        ("groups", 8, 4, 4, ([2, 6], [3, 3, 7, 7])),
        ("groups", 4, 4, 4, None),
    ],
)
def test_rows(name, size, width, heads, expected):
    assert rows(name, size, width, heads) == expected


def test_the_file_comes_before_the_defaults():
    layout = Layout("repeated", HEADS)
    config = LlamaConfig(num_attention_heads=2)
    left_out = layout.rows(2, 4, {}, config)
    assert left_out is not None and left_out.values.tolist() == [0, 1, 0, 1]
    assert layout.rows(2, 4, {"num_attention_heads": 4}, config).values.tolist() == [0, 0, 1, 1]


def test_heads_are_found_under_their_names_and_in_parts():
    assert ("n_head",) in list(head_keys(GPT2Config().to_dict()))
    assert ("num_attention_heads",) in list(head_keys(FalconConfig().to_dict()))
    assert list(head_keys({"text_config": {"num_heads": 3}, "num_heads": [1, 2], "depth": 4})) == [
        ("text_config", "num_heads")
    ]
    names = [layout.name for layout in layouts({"n_heads": 2})]
    assert names[:2] == ["alone", "thirds"] and len(names) == 6


def test_towers_that_only_the_real_model_tells_apart():
    def config(text, vision):
        return {"text_config": {"num_heads": text}, "vision_config": {"num_heads": vision}}

    layout = Layout("groups", ("vision_config", "num_heads"))
    assert told_apart(layout, config(4, 4), config(16, 16))
    assert told_apart(layout, config(3, 4), config(12, 16))
    assert not told_apart(layout, config(4, 4), config(12, 16))
    assert told_apart(Layout("thirds"), config(4, 4), config(12, 16))
