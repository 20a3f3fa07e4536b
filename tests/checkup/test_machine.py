"""What the system says of itself, from files and directories made here."""

import sys

import pytest

from normsurgery.checkup import machine
from normsurgery.checkup.libraries import Library, import_error, library_document

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """A /proc/meminfo with 8 GiB of which 6 are free, and a control group without files."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {8 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {6 * 2**20} kB\n")
    return meminfo, tmp_path


@pytest.mark.parametrize(
    ("limit", "used", "wanted"),
    [
        (None, None, (8, 6)),
        ("max", 5 * GIB, (8, 6)),
        (4 * GIB, GIB, (4, 3)),
        (4 * GIB, 5 * GIB, (4, 0)),
        (64 * GIB, GIB, (8, 6)),
    ],
)
def test_memory_is_the_machine_s_or_the_container_s(system, limit, used, wanted):
    meminfo, group = system
    for name, value in (("memory.max", limit), ("memory.current", used)):
        if value is not None:
            (group / name).write_text(f"{value}\n")
    found = machine.memory(meminfo, group)
    assert (found["bytes"], found["free"]) == (wanted[0] * GIB, wanted[1] * GIB)


def test_memory_that_the_system_does_not_tell_is_unknown(tmp_path):
    found = machine.memory(tmp_path / "none", tmp_path)
    assert found["free"] is None and found["bytes"] is not None and found["bytes"] > 0


def test_a_disk_is_that_of_the_nearest_directory_that_exists(tmp_path):
    found = machine.disk("x", tmp_path / "a" / "b")
    assert found["free"] > 0 and found["writable"] and found["path"].endswith("a/b")
    (tmp_path / "file").touch()
    assert not machine.disk("x", tmp_path / "file" / "b")["writable"]


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
    ],
)
def test_the_hub_s_cache_is_where_its_variables_say(environment, wanted):
    assert str(machine.hub_cache(environment)) == wanted


def test_our_idea_of_the_cache_is_huggingface_hub_s():
    import os

    from huggingface_hub import constants

    assert str(machine.hub_cache(os.environ)) == constants.HF_HUB_CACHE


def test_a_token_is_found_and_never_shown(tmp_path):
    secret = "hf_verysecret"
    assert machine.has_token({"HF_TOKEN": secret})
    assert not machine.has_token({"HF_TOKEN": " ", "HF_HOME": str(tmp_path)})
    (tmp_path / "token").write_text(secret)
    assert machine.has_token({"HF_HOME": str(tmp_path)})
    shown = machine.variables(
        {
            "HF_TOKEN": secret,
            "HUGGING_FACE_HUB_TOKEN": secret,
            "HF_ENDPOINT": f"https://me:{secret}@hub.local/api?token={secret}",
            "HF_HOME": "/data",
            "HF_TOKEN_PATH": "/data/token",
            "AWS_SECRET": secret,
        }
    )
    assert secret not in str(shown)
    assert shown == {
        "HF_TOKEN": "set",
        "HUGGING_FACE_HUB_TOKEN": "set",
        "HF_ENDPOINT": "https://hub.local/api",
        "HF_HOME": "/data",
        "HF_TOKEN_PATH": "/data/token",
    }


def test_a_library_that_does_not_import_is_described(tmp_path, monkeypatch):
    (tmp_path / "brokenlib.py").write_text('raise RuntimeError("no nms\\nmore")\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert import_error("brokenlib") == "RuntimeError: no nms"
    assert import_error("json") is None


def test_a_library_that_is_not_there_has_a_hint_and_is_not_imported():
    found = library_document(Library("no-such-library-of-ours", "timm", imported=True))
    assert found["version"] is None and found["error"] is None
    assert found["install"] == 'pip install "normsurgery[timm]"'


def test_a_broken_torch_is_an_entry_and_no_exception(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what makes `import torch` raise
    found = machine.torch_document()
    assert found["error"].startswith("ModuleNotFoundError") and found["threads"] is None


def test_torch_is_asked_for_its_build_and_threads():
    import torch

    found = machine.torch_document()
    assert found["error"] is None and found["threads"] == torch.get_num_threads()
    assert found["cuda"] == (torch.version.hip or torch.version.cuda)


def test_every_gpu_has_its_name_and_memory(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((number + 1) * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine.devices() == [
        {"device": "cuda:0", "name": "GPU 0", "bytes": 8 * GIB, "free": GIB},
        {"device": "cuda:1", "name": "GPU 1", "bytes": 8 * GIB, "free": 2 * GIB},
    ]


def test_a_driver_that_fails_leaves_what_was_read_before(monkeypatch):
    def failing():
        raise RuntimeError("CUDA driver version is insufficient\nmore")

    monkeypatch.setattr(machine, "devices", failing)
    found = machine.torch_document()
    assert found["error"] == "RuntimeError: CUDA driver version is insufficient"
    assert found["threads"] > 0
