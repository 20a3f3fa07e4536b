"""Every known problem is found where it is, and nothing is said where all is well."""

import re
from pathlib import Path

import pytest

from normsurgery.checkup import problems as p
from normsurgery.checkup.examine import problems
from normsurgery.checkup.libraries import LEAST

ROOT = Path(__file__).parents[2]


def broken(version, error=None, needed=True):
    return p.broken_library("x", version, error, install="pip install x", needed=needed)


PAIRS = [
    (broken(None), broken("1.0"), "x is not installed"),
    (broken("1.0", "ImportError: y"), broken("1.0"), "x 1.0 does not import: ImportError: y"),
    (broken(None), broken(None, needed=False), "not installed"),
    (
        p.unfitting_torchvision("0.2", "RuntimeError: operator nms does not exist", "2.13"),
        p.unfitting_torchvision("0.2", None, "2.13"),
        "torchvision 0.2 does not import beside torch 2.13",
    ),
    (p.too_old("rich", "13.6.9", "13.7"), p.too_old("rich", "13.7.0", "13.7"), "older than 13.7"),
    (
        p.newer_than_tested("torch", "99.0"),
        p.newer_than_tested("torch", p.TESTED["torch"] + "+cu130"),
        "torch 99.0 is newer",
    ),
    (p.little_disk("Hub cache", 4 * 10**9), p.little_disk("Hub cache", 5 * 10**9), "4.0 GB"),
    (
        p.unwritable("Hub cache", "/cache", writable=False),
        p.unwritable("Hub cache", "/cache", writable=True),
        "/cache cannot be written to",
    ),
    (p.little_memory(2**30), p.little_memory(2**31), "1.0 GiB of memory free"),
    (p.too_many_threads(9, 8), p.too_many_threads(8, 8), "9 threads on 8 CPUs"),
    (
        p.unused_gpu(driver=True, build=None, found=False),
        p.unused_gpu(driver=False, build=None, found=False),
        "built without CUDA",
    ),
    (
        p.unused_gpu(driver=True, build="13.0", found=False),
        p.unused_gpu(driver=True, build="13.0", found=True),
        "torch (CUDA 13.0) finds no device",
    ),
    (p.offline({"HF_HUB_OFFLINE": "true"}), p.offline({"HF_HUB_OFFLINE": "0"}), "HF_HUB_OFFLINE"),
]


@pytest.mark.parametrize(("ill", "well", "said"), PAIRS)
def test_a_problem_is_named_with_what_to_do_and_its_absence_is_silence(ill, well, said):
    assert said in ill.what and ill.hint and well is None


def test_what_nobody_knows_is_no_problem():
    assert p.little_disk("Hub cache", None) is None
    assert p.little_memory(None) is None
    assert p.too_many_threads(None, 1) is None
    assert p.too_old("torch", None, "2.5") is None and p.newer_than_tested("torch", None) is None


@pytest.mark.parametrize(("what", "way"), [("Hub cache", "HF_HOME"), ("working directory", "-o ")])
def test_the_way_out_of_a_full_or_closed_disk_fits_the_place(what, way):
    for problem in (p.little_disk(what, 0), p.unwritable(what, "/x", writable=False)):
        assert problem is not None and way in problem.hint


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("2.13.0+cpu", (2, 13, 0)), ("5.0.dev3", (5, 0)), ("odd", ())],
)
def test_releases_are_compared_as_numbers(version, wanted):
    assert p.release(version) == wanted


def healthy():
    """A document of `doctor` with nothing to complain about."""
    names = [*LEAST, "huggingface_hub", "peft", "torchvision"]
    versions = {**LEAST, **p.TESTED}
    libraries = [
        {"name": name, "version": versions.get(name, "1.0"), "extra": None, "error": None,
         "install": f"pip install {name}"}
        for name in names
    ]  # fmt: skip
    return {
        "libraries": libraries,
        "torch": {"cuda": None, "mps": False, "threads": 2, "devices": [], "error": None},
        "cpus": 2,
        "memory": {"bytes": 2**34, "free": 2**33},
        "disks": [{"what": "Hub cache", "path": "/c", "free": 10**12, "writable": True}],
        "environment": {},
        "nvidia_driver": False,
    }


def test_a_healthy_document_has_no_problem():
    assert problems(healthy()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["libraries"][0].update(version=None), "torch is not installed"),
        (lambda d: d["libraries"][1].update(version="4.57.1"), "transformers 4.57.1 is older"),
        (lambda d: d["libraries"][1].update(version="6.0.0"), "transformers 6.0.0 is newer"),
        (lambda d: d["libraries"][1].update(error="E: x"), "transformers 5.23.0 does not import"),
        (lambda d: d["libraries"][-1].update(error="E: x"), "torchvision 1.0 does not import"),
        (lambda d: d["torch"].update(threads=64), "64 threads on 2 CPUs"),
        (lambda d: d.update(nvidia_driver=True), "NVIDIA driver"),
        (lambda d: d["disks"][0].update(free=1), "Hub cache: 0.0 GB"),
        (lambda d: d["disks"][0].update(writable=False), "Hub cache: /c cannot"),
        (lambda d: d["memory"].update(free=1), "of memory free"),
        (lambda d: d["environment"].update(HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE"),
    ],
)
def test_one_change_is_one_problem(change, said):
    document = healthy()
    change(document)
    (problem,) = problems(document)
    assert said in problem.what


def test_an_extra_that_is_not_installed_is_no_problem():
    document = healthy()
    next(one for one in document["libraries"] if one["name"] == "peft")["version"] = None
    assert problems(document) == []


def test_versions_named_here_are_those_of_the_project_s_files():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name, version in p.TESTED.items():
        assert re.search(rf"^{name}=={re.escape(version)}(;|$)", pinned, re.M)
    asked = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, least in LEAST.items():
        assert f'"{name}>={least}"' in asked
