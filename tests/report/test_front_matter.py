import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normsurgery.report.front_matter import merged, split

OURS = {"base_model": ["org/base"], "library_name": "transformers", "tags": ["normsurgery"]}


def loaded(block):
    assert block.startswith("---\n") and block.endswith("---\n")
    return yaml.safe_load(block[4:-4])


def test_untouched_keys_keep_their_bytes():
    front = "# a comment\nlicense:   mit  # inline\nlanguage: no\ndatasets:\n- a\n-  b\n"
    assert merged(front, {"tags": ["x"]}) == f"---\n{front}tags:\n- x\n---\n"


def test_our_keys_replace_and_tags_unite():
    front = "tags:\n- text\n- normsurgery\nbase_model: old/one\nlibrary_name: timm\nx: 1\n"
    assert loaded(merged(front, OURS)) == {
        "tags": ["text", "normsurgery"],
        "base_model": ["org/base"],
        "library_name": "timm",
        "x": 1,
    }


@pytest.mark.parametrize(
    "front", ["tags: one\n", "tags: [one]\n", "{tags: [one]}\n", '"tags": [one]\n']
)
def test_tags_in_every_spelling(front):
    assert loaded(merged(front, {"tags": ["two"]}))["tags"] == ["one", "two"]


def test_a_multi_line_string_that_looks_like_a_key_is_no_key():
    front = "note: |\n  text\n\n  tags: inside\nlicense: mit\n"
    found = loaded(merged(front, OURS))
    assert found["note"] == "text\n\ntags: inside\n" and found["tags"] == ["normsurgery"]


@pytest.mark.parametrize(
    ("card", "front", "body"),
    [
        ("---\na: 1\n---\n# Title\n", "a: 1", "# Title\n"),
        ("---\r\na: 1\r\n---\r\nbody", "a: 1", "body"),
        ("\ufeff---\na: 1\n---\nbody", "a: 1", "body"),
        ("---\n---\nbody", "", "body"),
        ("# no front matter\n---\n", "", "# no front matter\n---\n"),
        ("---\na: [\n---\nbody", "", "---\na: [\n---\nbody"),
        ("---\n- a list\n---\nbody", "", "---\n- a list\n---\nbody"),
        ("---\nnever closed", "", "---\nnever closed"),
        ("", "", ""),
    ],
)
def test_split(card, front, body):
    got = split(card)
    assert (got[0].strip(), got[1]) == (front, body)


def test_aliases_are_left_alone_because_they_can_explode():
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(3))
    card = f"---\n{bomb}---\nbody"
    assert split(card) == ("", card)


def test_deep_nesting_is_left_alone():
    card = "---\n" + "[" * 5000 + "\n---\nbody"
    assert split(card) == ("", card)


values = st.one_of(
    st.text(max_size=20), st.integers(), st.booleans(), st.lists(st.text(max_size=9))
)
# "tags" is generated too, so that uniting and replacing are met with every kind of value.
mappings = st.dictionaries(st.sampled_from(["license", "tags", "base_model", "x-y", "n"]), values)


# Hypothesis builds its table of Unicode in the first draw, which is slow on a busy machine.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings, st.booleans())
def test_merging_loses_nothing(theirs, flow):
    front = yaml.safe_dump(theirs, default_flow_style=flow, allow_unicode=True)
    written = yaml.safe_load(front)  # YAML itself folds a bare U+0085 into a space
    found = loaded(merged(front, OURS))
    for key in set(theirs) - {"tags", "base_model"}:
        assert found[key] == written[key]
    assert found["base_model"] == OURS["base_model"] and "normsurgery" in found["tags"]
