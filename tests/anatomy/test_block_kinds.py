from torch import nn

from normsurgery.anatomy.block_kinds import idle_modules, read_kinds


class Block(nn.Module):
    def __init__(self, number: int, window: int | None, *, table: bool = False) -> None:
        super().__init__()
        self.layer_idx, self.window = number, window
        self.names = ["a", "b", "c"]
        self.linear = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.1 * number)
        self.has_table = table
        if table:
            self.table = nn.Embedding(3, 2)


class Model(nn.Module):
    def __init__(self, windows: list[int | None], *, tables: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(n, window, table=n in tables) for n, window in enumerate(windows)
        )
        self.head = nn.Linear(2, len(windows))


def kinds(windows, tables=(), idle=("drop",)):
    return read_kinds(Model(windows, tables=tables), "blocks", idle)


def test_numbers_of_blocks_are_no_difference_and_windows_are():
    source = kinds([None, 4, None])
    assert source.numbering == {"layer_idx": 0}
    assert source.mismatches(kinds([4, None]), [1, 2]) == []
    (odd,) = source.mismatches(kinds([None, None]), [1, 2])
    assert str(odd) == "block 0 would have window = None in place of 4"


def test_an_attribute_that_counts_otherwise_is_a_difference():
    model = Model([1, 1, 1])
    for block in model.blocks:
        block.layer_idx = 2 * block.layer_idx  # type: ignore[operator,assignment]
    source = read_kinds(model, "blocks", ("drop",))
    assert source.numbering == {}
    assert source.mismatches(source, [0, 2, 1])


def test_lists_by_block_and_rates_of_dropout_belong_to_no_block():
    assert not any(key.endswith("names") for kind in kinds([1, 1, 1]).blocks for key in kind)
    rates = kinds([1, 1, 1], idle=()).mismatches(kinds([1, 1, 1], idle=()), [0, 2, 1])
    assert {odd.what for odd in rates} == {"drop.p"}


def test_modules_that_hand_back_what_they_take_are_idle():
    import torch

    model = Model([1, 1]).eval()

    def run() -> None:
        for block in model.blocks:
            block.drop(block.linear(torch.ones(1, 2)))  # type: ignore[operator]

    assert idle_modules(model, run, ["blocks.0", "blocks.1"]) == {"drop"}


def test_a_table_that_one_block_keeps_for_all_may_move():
    source = kinds([1, 1, 1], tables=(0,))
    assert source.keeper() == 0
    assert {"has_table", "table.class", "parameter table.weight"} <= source.apart()
    assert source.mismatches(kinds([1, 1], tables=(0,)), [1, 2]) == []
    assert kinds([1, 1, 1], tables=(0, 1)).keeper() is None
    assert kinds([1, 1], tables=(0,)).keeper() is None  # two blocks: one is of another kind


def test_a_change_reassigns_kinds_only_if_it_makes_no_new_ones():
    source = kinds([None, 4, None])
    assert source.only_reassigns(kinds([4, 4, None]))
    assert not source.only_reassigns(kinds([None, 5, None]))
    assert source.differing(kinds([None, 5, None])) == {1}
