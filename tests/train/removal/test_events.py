"""Which step removes what."""

from dataclasses import replace

import pytest

from normsurgery.errors import UsageError
from normsurgery.train.removal.events import Event, events, steps_needed
from normsurgery.train.removal.published import PUBLISHED
from tests.train.removal.tools import paths

PLAIN = replace(
    PUBLISHED["gpt2"], start=2, gap_mlp=1, gap_qk=1, gap_v=2, gap_final=1, gap_end=1, steps=40,
    horizon=40,
)  # fmt: skip


def test_kinds_go_in_turn_and_within_one_the_first_block_first():
    assert [(e.step, e.action, e.paths) for e in events(PLAIN, paths(2))] == [
        (2, "remove", ("mlp0",)), (3, "remove", ("mlp1",)),
        (4, "remove", ("qk0",)), (5, "remove", ("qk1",)),
        (6, "remove", ("v0",)), (8, "remove", ("v1",)),
        (10, "remove", ("final",)), (11, "merge", ("end",)), (12, "merge", ("first",)),
    ]  # fmt: skip


def test_inner_norms_go_between_v_and_the_final_norm():
    at = {e.paths[0]: e.step for e in events(PLAIN, paths(2, inner=True))}
    assert at["v1"] < at["inner0"] < at["inner1"] == at["inner0"] + 2 < at["final"]


def test_gaps_below_one_remove_several_in_a_step_and_do_not_drift():
    quick = replace(PLAIN, gap_mlp=0.1, gap_qk=0.1, gap_v=0.1, gap_final=0.0, gap_end=0.0)
    found = events(quick, paths(10))
    assert [(e.step, len(e.paths)) for e in found] == [
        (2, 10), (3, 10), (4, 10), (5, 1), (5, 1), (5, 1),
    ]  # fmt: skip
    assert found[-3:] == (
        Event(5, "remove", ("final",)), Event(5, "merge", ("end",)), Event(5, "merge", ("first",)),
    )  # fmt: skip


def test_by_sensitivity_kinds_do_not_matter_and_gaps_are_the_kinds_own():
    chosen = replace(PLAIN, order="sensitivity")
    order = ["v1", "final", "mlp0", "qk1", "v0", "mlp1", "qk0"]
    found = events(chosen, paths(2), order=order)
    assert [name for e in found for name in e.paths] == [*order, "end", "first"]
    assert [e.step for e in found] == [2, 4, 5, 6, 7, 9, 10, 11, 12]
    for bad in (None, order[1:], [*order, "v7"]):
        with pytest.raises(UsageError, match="no order of all norm paths"):
            events(chosen, paths(2), order=bad)


def test_without_an_end_of_text_token_nothing_of_its_own_is_merged():
    assert [e.paths for e in events(PLAIN, paths(1), end=False)][-2:] == [("final",), ("first",)]


def test_a_run_that_is_over_before_its_last_event_is_refused():
    assert steps_needed(events(PLAIN, paths(2)), PLAIN) == 13
    events(replace(PLAIN, steps=13), paths(2))
    for short in (
        replace(PLAIN, steps=12), replace(PLAIN, steps=13, gap_first=1),
        replace(PLAIN, steps=14, anneal_first=2), replace(PLAIN, steps=14, anneal=5),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"needs 1[3456] steps for 7 norm paths"):
            events(short, paths(2))


def test_an_event_is_json():
    event = Event(3, "remove", ("a", "b"))
    assert Event.from_dict(event.to_dict()) == event
