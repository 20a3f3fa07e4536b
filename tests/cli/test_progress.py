import io
from contextlib import contextmanager

from rich.console import Console

from normsurgery.cli.progress import Amount, Bars, amount
from normsurgery.report.progress import Silent
from tests.report import documents


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def printed(console):
    return console.file.getvalue()


def test_a_task_shows_how_much_of_how_much_in_its_unit():
    console = terminal()
    with Bars(console) as bars, bars.task("write", 2_000_000, "bytes") as advance:
        advance(500_000)
        bars._bars.refresh()
    assert "write" in printed(console) and "500 kB of 2.0 MB" in printed(console)


def test_an_unknown_total_shows_the_count_alone():
    console = terminal()
    with Bars(console) as bars, bars.task("read [x]", None, "tokens") as advance:
        advance(1_500)
        bars._bars.refresh()
    assert "read [x]" in printed(console) and "1.5 K tokens" in printed(console)
    assert " of " not in printed(console)


def test_a_finished_task_is_gone_and_the_next_one_starts_at_nothing():
    console = terminal()
    with Bars(console) as bars:
        with bars.task("one", 10, "steps") as advance:
            advance(10)
            assert [t.description for t in bars._bars.tasks if t.visible] == ["one"]
        assert [t.description for t in bars._bars.tasks if t.visible] == ["working"]
        with bars.task("two", 10, "steps"):
            (task,) = [t for t in bars._bars.tasks if t.visible]
            assert str(Amount().render(task)) == "0 steps of 10 steps"


def test_nothing_is_written_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), force_terminal=False)
    with Bars(console) as bars, bars.task("write", 10, "bytes") as advance:
        advance(10)
    assert printed(console) == ""


def test_amounts():
    assert amount(1_500_000_000, "bytes") == "1.5 GB"
    assert amount(12, "steps") == "12 steps"


def test_silent_takes_every_call():
    with Silent().task("write", None, "bytes") as advance:
        advance(3)


LIVE = {
    "step": 10, "steps": 200, "last": "h.0.ln_2", "loss": 3.14159, "drift": 1.02,
    "seconds_left": 61.0,
}  # fmt: skip


@contextmanager
def told(terminal):
    """A run of 200 steps that tells its figures; what the console has at each."""
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal, highlight=False)
    with Bars(console) as bars:
        bars.tell("plan", documents.remove_ln_document())
        with bars.task("train", 200, "steps") as advance:
            for step in range(1, 201):
                advance(1)
                bars.tell("removal", {**LIVE, "step": step})
            bars._bars.refresh()
            yield printed(console)
        bars._bars.refresh()


def test_without_a_terminal_a_run_speaks_now_and_then():
    with told(terminal=False) as text:
        assert "When each norm goes" in text
        assert text.count("loss 3.1416") == 20
        assert "step 200 of 200" in text and "step 199 of 200" not in text


def test_on_a_terminal_a_run_has_a_table():
    with told(terminal=True) as text:
        assert "When each norm goes" in text
        assert "σ drift" in text and "200 of 200" in text
