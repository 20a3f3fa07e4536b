"""The page in a real browser: on a phone and on a desk, nothing sticks out and nothing is asked."""

import html
import json
import re
import shutil
import subprocess

import pytest

from normsurgery.plots import pictures
from normsurgery.report.page.blocks import Figure
from normsurgery.report.page.svg import safe_svg
from tests.report import documents
from tests.report.page.pages import page_of

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (found := shutil.which(name))), None,
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=3000", "--window-size=1300,2000",
]  # fmt: skip
# What a browser makes of the page, told to the page around it: the copy that is measured has no
# policy, so that whatever it asked for would be asked for.
MEASURE = """<script>
addEventListener("load", () => {
  const wide = document.documentElement.clientWidth;
  const right = one => one.getBoundingClientRect().right;
  const boxes = [...document.querySelectorAll(".scroll, figure, .sample, nav, .tiles, p, h1, h2")];
  parent.postMessage({
    wide, scrolls: document.documentElement.scrollWidth,
    outside: boxes.filter(one => right(one) > wide + 1).map(one => one.className || one.tagName),
    tables: document.querySelectorAll("table").length,
    inBoxes: document.querySelectorAll(".scroll > table").length,
    drawn: [...document.querySelectorAll("figure svg")].map(one => one.clientWidth),
    asked: performance.getEntriesByType("resource").map(one => one.name),
  }, "*");
});
</script>"""
AROUND = """<!DOCTYPE html><pre id="told"></pre><script>
const told = {};
addEventListener("message", event => {
  const name = [...document.querySelectorAll("iframe")]
    .find(one => one.contentWindow === event.source).id;
  told[name] = event.data;
  document.getElementById("told").textContent = JSON.stringify(told);
});
</script>"""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def page():
    document = documents.prune_document()
    document["receipts"][0]["names"] = {"changed": ["a_very_long_name_of_a_tensor." * 20]}
    document["config_diff"] = {"key": ["x" * 300, "y" * 300]}
    figures = [
        Figure(one.name, one.title, one.caption, safe_svg(one.svg(), one.name))
        for one in pictures(document)
    ]
    return page_of(document, figures=figures, name="a-name-without-any-space-in-it" * 3)


def browse(folder, *arguments):
    """Chromium's DOM and what it wrote to stderr."""
    done = subprocess.run(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the page measured: on a phone, on a desk, and with its boxes broken on purpose."""
    folder = tmp_path_factory.mktemp("browser")
    whole = page()
    assert POLICY.search(whole)
    copy = POLICY.sub("", whole).replace("</body>", f"{MEASURE}</body>")
    broken = copy.replace("</style>", ".scroll { overflow: visible !important }</style>")
    (folder / "whole.html").write_text(whole, encoding="utf-8")
    frames = ""
    for name, width, text in (("phone", 390, copy), ("desk", 1200, copy), ("broken", 390, broken)):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
        frames += f'<iframe id="{name}" src="{name}.html" style="width:{width}px"></iframe>'
    # The page itself, with its policy, must load without a word.
    frames += '<iframe src="whole.html"></iframe>'
    (folder / "around.html").write_text(AROUND + frames, encoding="utf-8")
    dom, console = browse(folder, "--dump-dom", (folder / "around.html").as_uri())
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.S)
    assert found, dom[:2000]
    return {**json.loads(html.unescape(found[1])), "console": console}


@pytest.mark.parametrize(("name", "width"), [("phone", 390), ("desk", 1200)])
def test_nothing_sticks_out_of_the_window(told, name, width):
    found = told[name]
    assert abs(found["wide"] - width) < 25
    assert found["outside"] == [] and found["scrolls"] <= found["wide"]
    assert found["tables"] == found["inBoxes"] > 10
    assert found["drawn"] and all(200 < drawn < width for drawn in found["drawn"])


def test_the_page_asks_for_nothing_and_complains_of_nothing(told):
    assert told["phone"]["asked"] == told["desk"]["asked"] == []
    assert told["console"] == []


def test_the_measure_sees_a_table_that_sticks_out(told):
    assert told["broken"]["scrolls"] > told["broken"]["wide"]
