"""What the Hub refuses, and what is asked again after the wait it names. Nothing sleeps."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from huggingface_hub import constants

from normsurgery import HubError, push
from tests.hub.server import Answer, Hub, refused

# huggingface_hub hands httpx a file in a way that httpx means to give up
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

INFO, CREATE = "GET /api/models/user/model", "POST /api/repos/create"
COMMIT, BRANCH = "POST /api/models/user/model/commit", "POST /api/models/user/model/branch"
PREUPLOAD = "POST /api/models/user/model/preupload"
BATCH, PUT, VERIFY = "POST /user/model.git/info/lfs", "PUT /store", "POST /lfs/verify"

REFUSALS = [
    (CREATE, refused(403, "no rights"), ["not write to user/model", "no rights"], "--create-pr"),
    (COMMIT, refused(403, "read only token"), ["may not write", "read only"], "hf auth login"),
    (BRANCH, refused(403, "protected"), ["may not write", "protected"], "token"),
    (CREATE, refused(401), ["does not accept your token"], "HF_TOKEN"),
    (PREUPLOAD, refused(401), ["does not accept your token"], "HF_TOKEN"),
    (CREATE, refused(409, "exists as a dataset"), ["in conflict", "a dataset"], "another name"),
    (COMMIT, refused(409, "a commit has happened"), ["in conflict", "commit has"], "look"),
    (COMMIT, refused(404, "gone"), ["was not found", "gone"], "name"),
    (COMMIT, refused(413, "too large"), ["answered 413", "too large"], "not sent twice"),
    (BATCH, refused(403, "over the quota"), ["may not write", "quota"], "token"),
    (VERIFY, refused(422, "not what it says"), ["answered 422", "not what"], "not sent twice"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "given", "words", "hint"), REFUSALS)
def test_a_refusal_is_one_line_with_the_hub_s_reason(
    hub: Hub, output: Path, request_: str, given: Answer, words: list[str], hint: str
) -> None:
    hub.faults[request_] = [given]
    with pytest.raises(HubError) as refusal:
        push(output, "user/model", revision="v2")
    assert all(word in refusal.value.message for word in words)
    assert hint in refusal.value.hint
    assert refusal.value.exit_code == 7


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        *((one, 429) for one in (INFO, CREATE, BRANCH, COMMIT, PREUPLOAD, BATCH, PUT, VERIFY)),
        *((one, status) for one in (INFO, COMMIT, PUT) for status in (503, 500)),
    ],
)
def test_a_busy_hub_is_asked_again_after_the_wait_it_names(
    hub: Hub, output: Path, waits: list[float], request_: str, status: int
) -> None:
    hub.faults[request_] = [refused(status, "busy", Retry_After="7"), refused(status, "busy")]
    push(output, "user/model", revision="v2")
    assert "config.json" in hub.repositories["user/model"].files("v2")
    assert waits[0] in (7, 8)  # huggingface_hub adds a second to be sure
    assert len(waits) == 2 and waits[1] in (1, 2)


@pytest.mark.parametrize("request_", [INFO, CREATE, BRANCH, COMMIT, PREUPLOAD, PUT])
def test_six_times_is_enough(hub: Hub, output: Path, waits: list[float], request_: str) -> None:
    hub.faults[request_] = [refused(502, "bad gateway")] * 99
    with pytest.raises(HubError, match="answered 502 6 times") as refusal:
        push(output, "user/model", revision="v2")
    assert "not sent twice" in refusal.value.hint
    assert waits[:5] == [1, 2, 4, 8, 8]
    assert 99 - len(hub.faults[request_]) == 6


def test_waits_are_read_in_every_spelling(hub: Hub, output: Path, waits: list[float]) -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    hub.faults[CREATE] = [
        refused(429, Retry_After=soon),
        refused(429, RateLimit='"api";r=0;t=55'),
        refused(429, Retry_After="nonsense"),
    ]
    push(output, "user/model")
    assert 80 < waits[0] <= 90
    assert waits[1:] == [56, 4]


def test_a_wait_of_an_hour_is_said_instead(hub: Hub, output: Path, waits: list[float]) -> None:
    hub.faults[CREATE] = [refused(429, Retry_After="3600")]
    with pytest.raises(HubError, match="asks to wait 3,600 s"):
        push(output, "user/model")
    assert waits == []


def test_a_pull_request_in_doubt_is_not_opened_twice(
    hub: Hub, output: Path, waits: list[float]
) -> None:
    hub.make("user/model")
    hub.faults[COMMIT] = [refused(504, "timeout")]
    with pytest.raises(HubError, match="answered 504"):
        push(output, "user/model", create_pr=True)
    assert hub.asked(COMMIT) == 1 and waits == []


def test_no_token_and_a_bad_one(hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for name in ("user/model", "model"):
        with pytest.raises(HubError, match="does not accept your token"):
            push(output, name)
    monkeypatch.delenv("HF_TOKEN")
    for name in ("user/model", "model"):
        with pytest.raises(HubError, match="there is no token") as refusal:
            push(output, name)
        assert "hf auth login" in refusal.value.hint
    assert hub.repositories == {}


def test_somebody_else_s_name(hub: Hub, output: Path) -> None:
    with pytest.raises(HubError, match="may not write to google/model"):
        push(output, "google/model")


def test_offline(hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="offline") as refusal:
        push(output, "user/model")
    assert "HF_HUB_OFFLINE" in refusal.value.hint and hub.requests == []


def test_nobody_listens(hub: Hub, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="could not be reached") as refusal:
        push(output, "user/model")
    assert "HF_ENDPOINT" in refusal.value.hint and "HF_HUB_DISABLE_XET=1" in refusal.value.hint


def test_an_answer_that_is_no_hub_s(hub: Hub, output: Path) -> None:
    hub.faults[CREATE] = [(200, {}, b"<html>welcome to the captive portal</html>")]
    with pytest.raises(HubError, match="makes no sense") as refusal:
        push(output, "user/model")
    assert "HF_ENDPOINT" in refusal.value.hint
