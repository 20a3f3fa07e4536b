import io

from rich.console import Console

from normsurgery.cli.progress import Amount, Bars, amount
from normsurgery.report.progress import Silent


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
