"""Asking the Hub again, where huggingface_hub does not do so itself.

It backs off for uploads (pre-upload, LFS); it does not for questions about a repository, for making
a repository or a branch, or for a commit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

T = TypeVar("T")

TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 1.0, 8.0
LONGEST_OBEYED = 600.0  # seconds; who is told to wait longer is better told so
REFUSED = (429, 503)  # nothing was done
DOUBTFUL = (500, 502, 504)  # it may have been done, and only the answer was lost
_RATE_LIMIT = re.compile(r"\br=0\b.*\bt=(\d+)")  # draft-ietf-httpapi-ratelimit-headers


def retried(call: Callable[[], T], *, statuses: Collection[int] = (*REFUSED, *DOUBTFUL)) -> T:
    """What `call` returns, asked up to six times while the Hub answers with one of `statuses`.

    Waits as long as Retry-After or RateLimit say, else 1, 2, 4, 8, 8 seconds. Raises the last
    HfHubHTTPError, also at once where the Hub asks for more than ten minutes.
    """
    from huggingface_hub.errors import HfHubHTTPError

    wait = FIRST_WAIT
    for left in range(TRIES - 1, -1, -1):
        try:
            return call()
        except HfHubHTTPError as error:
            asked = asked_wait(error)
            if left == 0 or status_of(error) not in statuses or (asked or 0) > LONGEST_OBEYED:
                raise
            time.sleep(wait if asked is None else asked)
        wait = min(LONGEST_WAIT, 2 * wait)
    raise AssertionError("the last try returns or raises")


def status_of(error: Any) -> int | None:
    """The HTTP status of an answer that huggingface_hub raised."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def asked_wait(error: Any) -> float | None:
    """Seconds that the answer asks to wait: Retry-After (seconds or a date), or RateLimit."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    said = str(headers.get("retry-after") or "").strip()
    if said.isdigit():
        return float(said)
    if said:
        return _until(said)
    found = _RATE_LIMIT.search(str(headers.get("ratelimit") or ""))
    return float(found[1]) + 1 if found and status_of(error) == 429 else None


def _until(date: str) -> float | None:
    try:
        then = parsedate_to_datetime(date)
    except ValueError:
        return None
    if then.tzinfo is None:  # "-0000": UTC, from a clock of unknown zone
        then = then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())
