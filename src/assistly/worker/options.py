"""The options of a worker, checked."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict

from assistly.storage import validation as check
from assistly.storage.errors import InvalidValue
from assistly.storage.retry import RetryPolicy

from .verdicts import Publisher

_MOST = 1000


class WorkerOptions(TypedDict, total=False):
    """The keywords of `Worker`."""

    worker_id: str | None
    platforms: Iterable[str] | None
    concurrency: int
    platform_concurrency: Mapping[str, int] | None
    batch: int | None
    lease: timedelta
    heartbeat: timedelta | None
    poll: float | timedelta
    grace: float | timedelta
    pause: float | timedelta
    retry: RetryPolicy | Mapping[str, RetryPolicy] | None
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Options:
    worker_id: str
    publishers: Mapping[str, Publisher]
    concurrency: int
    limits: Mapping[str, int]
    batch: int
    lease: timedelta
    heartbeat: timedelta
    poll: float
    grace: float
    pause: float
    retry: RetryPolicy | Mapping[str, RetryPolicy] | None
    clock: Callable[[], float] = time.monotonic

    @property
    def platforms(self) -> list[str]:
        return [*self.publishers]

    def retry_policy(self, platform: str) -> RetryPolicy | None:
        """None: the storage's own."""
        if self.retry is None or isinstance(self.retry, RetryPolicy):
            return self.retry
        return self.retry.get(platform)


def new_worker_id() -> str:
    """One that no other worker has: host, process, and a random part."""
    return f"{socket.gethostname()[:200] or 'host'}-{os.getpid()}-{secrets.token_hex(4)}"


def chosen_publishers(
    publishers: Mapping[str, Publisher], platforms: Iterable[str] | None
) -> dict[str, Publisher]:
    if not isinstance(publishers, Mapping):
        raise check.wrong_type("publishers", "a mapping of platforms to publishers", publishers)
    for platform, publisher in publishers.items():
        check.name("publishers", platform)
        if not callable(publisher):
            raise check.wrong_type(f"publishers[{platform!r}]", "callable", publisher)
    wanted = check.names("platforms", platforms)
    chosen = [*publishers] if wanted is None else wanted
    missing = [platform for platform in chosen if platform not in publishers]
    if missing:
        raise InvalidValue(f"there is no publisher for {', '.join(map(repr, missing))}")
    if not chosen:
        raise InvalidValue("publishers must not be empty: a worker needs something to publish with")
    return {platform: publishers[platform] for platform in chosen}


def checked_concurrency(value: object) -> int:
    return check.whole("concurrency", value, least=1, most=_MOST)


def checked_limits(limits: Mapping[str, int] | None, platforms: Iterable[str]) -> dict[str, int]:
    known = {*platforms}
    for platform, limit in (limits or {}).items():
        if platform not in known:
            raise InvalidValue(f"platform_concurrency names {platform!r}, which has no publisher")
        check.whole(f"platform_concurrency[{platform!r}]", limit, least=1, most=_MOST)
        check.name(f"the lock for {platform!r}", f"publish:{platform}:{limit}")
    return dict(limits or {})


def checked_heartbeat(heartbeat: timedelta | None, lease: timedelta) -> timedelta:
    if heartbeat is None:
        return lease / 3
    if check.duration("heartbeat", heartbeat, zero=False) >= lease:
        raise InvalidValue(f"heartbeat must be shorter than the lease of {lease}, not {heartbeat}")
    return heartbeat


def checked_poll(poll: float | timedelta) -> float:
    bound = check.seconds("poll", poll)
    if not bound:
        raise InvalidValue("poll must be above zero")
    return bound
