"""What the Hub answers to a push, as one line and one hint with exit code 7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError, HubError, ResourceError, SurgeryError
from normsurgery.hub.retry import DOUBTFUL, TRIES, asked_wait, status_of

_AGAIN = "run the same command again: what has arrived is not sent twice"
_XET = "a server that has no Xet storage needs HF_HUB_DISABLE_XET=1"
_LOG_IN = "`hf auth login`, or set HF_TOKEN to a token with the right to write"


@contextmanager
def push_errors(repository: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises while `repository` is written to into a SurgeryError."""
    try:
        yield
    except SurgeryError:
        raise
    except Exception as raised:
        error = _explained(raised, repository)
        if error is None:
            raise
        raise error from raised


def _explained(raised: Exception, repository: str) -> SurgeryError | None:
    """The error to report; None for what does not come from the Hub."""
    from huggingface_hub import errors

    error = _answer(raised)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return no_token()
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline(repository)
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, repository)
    if _is_transport(error):
        return HubError(
            f"the Hub could not be reached for {repository}",
            f"check the connection and HF_ENDPOINT ({_XET}), then {_AGAIN}",
        )
    if isinstance(error, OSError):
        return ResourceError(f"{repository}: {error.strerror or error}", "check the disk")
    if isinstance(error, ValueError):
        return _unreadable(error, repository)
    return None


def offline(repository: str) -> HubError:
    """For a push while HF_HUB_OFFLINE is set."""
    return HubError(f"{repository} cannot be pushed to offline", "unset HF_HUB_OFFLINE")


def no_token() -> HubError:
    """For a push by nobody."""
    return HubError("there is no token to write to the Hub with", _LOG_IN)


def _answer(raised: BaseException) -> BaseException:
    """The error behind huggingface_hub's own "Error while uploading …"."""
    while type(raised) is RuntimeError and raised.__cause__ is not None:
        raised = raised.__cause__
    return raised


def _is_transport(error: BaseException) -> bool:
    # huggingface_hub lets its HTTP client's own errors through, and has changed client twice
    client = type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests")
    return client or isinstance(error, ConnectionError | TimeoutError)


def _refused(error: Exception, repository: str) -> HubError:
    status, said = status_of(error), _said(error)
    if status == 401:
        return _unauthorized()
    if status == 403:
        return HubError(
            f"your token may not write to {repository}{said}",
            "use a token with the right to write there (`hf auth login`), or propose it with "
            "--create-pr",
        )
    if status == 404:
        return HubError(f"{repository} was not found on the Hub{said}", "check the name")
    if status == 409:
        return HubError(
            f"{repository} is in conflict with what is on the Hub{said}",
            "look at it there; another name or another --revision is free",
        )
    if status == 429:
        wait = asked_wait(error)
        when = "" if wait is None else f", asks to wait {wait:,.0f} s"
        return HubError(f"the Hub takes no more requests for now{when}{said}", f"later, {_AGAIN}")
    tried = f" {TRIES} times" if status in (503, *DOUBTFUL) else ""
    return HubError(f"the Hub answered {status}{tried} for {repository}{said}", f"later, {_AGAIN}")


def _unauthorized() -> HubError:
    from huggingface_hub import get_token

    if get_token() is None:
        return no_token()
    return HubError("the Hub does not accept your token", _LOG_IN)


def _said(error: Exception) -> str:
    message = getattr(error, "server_message", None)
    return f": {shown(' '.join(str(message).split()))}" if message else ""


def _unreadable(error: ValueError, repository: str) -> SurgeryError:
    """A ValueError of huggingface_hub: our card's front matter, or the server's answer."""
    if "README.md" in str(error):
        return CheckpointError(
            f"the Hub refuses the card: {' '.join(str(error).split())}",
            "correct the lines between the dashes at the head of README.md",
        )
    return HubError(f"the Hub's answer for {repository} makes no sense", "check HF_ENDPOINT")
