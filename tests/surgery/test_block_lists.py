import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.errors import UsageError
from normsurgery.surgery.block_lists import Drop, parse_blocks, parse_drop

DEPTH = 12
numbers = st.integers(0, DEPTH - 1)
items = st.one_of(
    numbers.map(lambda n: (str(n), [n])),
    st.tuples(numbers, numbers).map(
        lambda ends: (
            f"{ends[0]}-{ends[1]}",
            list(range(ends[0], ends[1] + 1)) or list(range(ends[0], ends[1] - 1, -1)),
        )
    ),
    st.just(("zero", ["zero"])),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-2,zero,8-11", [0, 1, 2, "zero", 8, 9, 10, 11]),
        ("3,1,2", [3, 1, 2]),
        ("0-3,0-3", [0, 1, 2, 3, 0, 1, 2, 3]),
        (" 4 , 2-0 ", [4, 2, 1, 0]),
    ],
)
def test_lists_are_read_in_order(text, expected):
    assert parse_blocks(text, DEPTH) == expected


@given(st.lists(items, min_size=1, max_size=6))
def test_a_list_is_its_items_one_after_another(chosen):
    text = ",".join(word for word, _ in chosen)
    assert parse_blocks(text, DEPTH) == [block for _, blocks in chosen for block in blocks]


@given(st.text(alphabet="0123456789-,z ero%٣", max_size=12))
def test_anything_else_is_a_usage_error(text):
    try:
        found = parse_blocks(text, DEPTH)
    except UsageError as error:
        assert error.hint
    else:
        assert found
        assert all(block == "zero" or 0 <= block < DEPTH for block in found)


@pytest.mark.parametrize("text", ["", "1,,2", "12", "0-12", "one", "-1", "1-", "1-2-3", "1.5", "²"])
def test_a_bad_list_says_what_is_wrong(text):
    with pytest.raises(UsageError) as caught:
        parse_blocks(text, DEPTH)
    assert caught.value.exit_code == 2 and caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", Drop(3)),
        ("25%", Drop(3)),
        ("33.4%", Drop(4)),
        ("5-7", Drop(3, (5, 6, 7))),
        ("9,4", Drop(2, (4, 9))),
        ("5-5", Drop(1, (5,))),
    ],
)
def test_what_to_drop(text, expected):
    assert parse_drop(text, DEPTH) == expected


@pytest.mark.parametrize("text", ["0", "12", "100%", "1%", "0-11", "4,4", "zero", "a%", "", "7,12"])
def test_what_cannot_be_dropped(text):
    with pytest.raises(UsageError):
        parse_drop(text, DEPTH)


def test_what_stays():
    assert Drop(2, (1, 3)).kept(5) == [0, 2, 4]
    with pytest.raises(UsageError):
        Drop(2).kept(5)


@given(st.sets(st.integers(0, DEPTH - 1), min_size=1, max_size=DEPTH - 1))
def test_what_is_to_be_dropped_is_written_as_it_is_read(blocks):
    drop = Drop(len(blocks), tuple(sorted(blocks)))
    assert parse_drop(str(drop), DEPTH) == drop
    assert parse_drop(str(Drop(len(blocks))), DEPTH) == Drop(len(blocks))
