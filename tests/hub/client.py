"""The real huggingface_hub client, pointed at a server on the loopback interface."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub.server import TOKEN


def point_at(url: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Every request of huggingface_hub in this process goes to `url`, with a token."""
    for name, value in {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache / "cache"),
        "HF_TOKEN_PATH": str(cache / "no-token"),
    }.items():
        assert hasattr(constants, name)
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
