"""What the harness takes for a command, and that it can fail."""

from __future__ import annotations

import pytest

from tests.docs.conftest import Desk
from tests.docs.pages import Block, Command, blocks_of, commands_of
from tests.docs.running import Page, first_missing

PAGE = """# A page

```bash
normsurgery inspect MODEL   # what it is
normsurgery convert a \\
  -o b   # refused: exit code 4
```

=== "Tab"

    ```console
    $ normsurgery doctor
    python 3.11
    …
    ```

```yaml title="recipes/one.yaml"
source: a
```
"""


def test_blocks_have_language_title_text_and_line() -> None:
    bash, console, written = blocks_of(PAGE)
    assert (bash.language, bash.line, console.language) == ("bash", 4, "console")
    assert console.text == "$ normsurgery doctor\npython 3.11\n…\n"
    assert written == Block("yaml", "recipes/one.yaml", "source: a\n", 18)
    with pytest.raises(ValueError, match="not closed"):
        blocks_of("```bash\nls\n")


def test_commands_have_words_an_exit_code_and_what_is_shown() -> None:
    bash, console, _ = blocks_of(PAGE)
    first, second = commands_of(bash)
    assert (first.words, first.exit_code) == (["normsurgery", "inspect", "MODEL"], 0)
    assert (second.words, second.exit_code) == (["normsurgery", "convert", "a", "-o", "b"], 4)
    assert commands_of(console) == [Command("normsurgery doctor", 0, ("python 3.11", "…"))]


def test_shown_lines_are_looked_for_in_order_and_figures_apart() -> None:
    output = "norms     13 LayerNorm\nerror  3.0e-15\n  pass\n"
    assert first_missing(("norms 6 LayerNorm", "…", "  pass"), output) is None
    assert first_missing(("pass", "norms 13 LayerNorm"), output) == "norms 13 LayerNorm"
    assert first_missing(("norms 13 RMSNorm",), output) == "norms 13 RMSNorm"


@pytest.mark.parametrize(
    ("language", "text", "reason"),
    [
        ("bash", "normsurgery convert MODEL --nonsense", "exit code 2"),
        ("bash", "normsurgery --version   # exit code 3", "exit code 0"),
        ("console", "$ normsurgery --version\nnormsurgery in Rust", "not printed: normsurgery in"),
        ("console", "$ ls\nnothing", "not printed: nothing"),
        ("bash", "ls missing", "No such file"),
        ("bash", "curl example.org", "not a command that a page may show"),
        ("bash", "make coffee", "no such target"),
        ("bash", 'pip install "normsurgery[magic]"', "magic"),
        ("rust", "fn main() {}", "a block of 'rust'"),
        ("python", "assert len('normsurgery') == 1, 'too long'", "too long"),
    ],
)
def test_a_page_that_says_what_is_not_so_fails(
    language: str, text: str, reason: str, desk: Desk
) -> None:
    desk("")
    with pytest.raises(AssertionError, match=reason):
        Page("page.md").run(Block(language, None, text, 1))


def test_a_file_that_a_page_shows_is_there_for_its_next_block(desk: Desk) -> None:
    directory = desk("see text.jsonl")
    page = Page("page.md")
    page.run(Block("python", "helper.py", "ANSWER = 42\n", 1))
    page.run(Block("python", None, "from helper import ANSWER\nprint(ANSWER)", 5))
    page.run(Block("python", None, "assert ANSWER == 42", 9))
    page.run(Block("bash", None, "normsurgery --version > version.txt\ncat version.txt", 12))
    assert {path.name for path in directory.iterdir()} >= {"helper.py", "version.txt", "text.jsonl"}
    assert page.commands == 2
