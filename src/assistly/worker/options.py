"""The options of a worker, and their validation."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict, Unpack

from assistly.storage import validation as check
from assistly.storage.errors import InvalidValue
from assistly.storage.records import Job
from assistly.storage.retry import RetryPolicy
from assistly.storage.storage import Storage

from .events import WorkerEvent, checked_hook
from .publisher import Publisher
from .publisher_checks import CheckedPublisher, checked_publisher, publisher_fault

if TYPE_CHECKING:
    import asyncio

_MOST_AT_ONCE = 1000
_LONGEST_LEASE = timedelta(days=365)
# Python raises an error for waits longer than about 290 years.
_LONGEST_WAIT = timedelta(days=36_500).total_seconds()


class WorkerOptions(TypedDict, total=False):
    """The keyword arguments of `Worker` and `AsyncWorker`. Durations given as numbers are seconds."""

    worker_id: str | None
    """The name of the worker in its claims, 1 to 512 bytes. Default: host, process id and a random part."""
    platforms: Iterable[str] | None
    """Serve only these platforms. Default: all that have a publisher."""
    concurrency: int
    """The maximum number of jobs that this worker publishes at once, 1 to 1000. Default: 4."""
    platform_concurrency: Mapping[str, int] | None
    """The maximum number of jobs of a platform that all workers of the storage publish at once, 1 to 1000.
    All
    workers must have the same value. Default: no limit."""
    batch: int | None
    """The maximum number of jobs in one claim, 1 to 1000. Default: `concurrency`."""
    lease: timedelta
    """How long a claim lasts after its worker has died, at most a year. Default: 60 seconds."""
    heartbeat: timedelta | None
    """How often the leases of running jobs are extended; shorter than `lease`. Default: a third of it."""
    poll: float | timedelta
    """The longest sleep while no job is due; greater than 0. Default: 5 seconds."""
    grace: float | timedelta
    """How long running jobs and storage calls may continue after `stop`. Default: 30 seconds."""
    pause: float | timedelta
    """How long a platform is paused after a `Retry` without `after`. Default: 60 seconds."""
    retry: RetryPolicy | Mapping[str, RetryPolicy] | None
    """When failed jobs are retried: one policy, or one per platform. Default: the policy of the storage."""
    timeout: float | timedelta | None
    """How long a publisher may take; greater than 0. After that, the outcome is unknown, the coroutine is
    cancelled, and the thread ends when the call does. Default: no limit. It also limits each call of a
    `check`, whose default limit is 30 seconds."""
    check_pause: float | timedelta
    """The time from an unknown outcome to the first call of the publisher's `check`, and the first pause
    after `StillUnknown`; greater than 0. The pauses double, up to an hour. It should be longer than a request
    of the publisher can be in flight. Default: 10 seconds."""
    check_for: float | timedelta
    """For how long a `check` is called about an outcome; 0: never. Default: 24 hours."""
    on_event: Callable[[WorkerEvent], object] | None
    """A plain function that is called with each event of the worker, on its own thread. Exceptions are
    logged.
    If it is slow, events wait; beyond 10,000 they are dropped. Default: none."""
    clock: Callable[[], float]
    """A monotonic clock in seconds, for pauses and the grace time. Default: `time.monotonic`."""


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """The validated `WorkerOptions`, with defaults, and durations in seconds."""

    worker_id: str
    publishers: Mapping[str, CheckedPublisher]
    concurrency: int
    limits: Mapping[str, int]
    batch: int
    lease: timedelta
    heartbeat: timedelta
    poll: float
    grace: float
    pause: float
    retry: RetryPolicy | Mapping[str, RetryPolicy] | None
    timeout: float | None
    check_pause: float
    check_for: float
    on_event: Callable[[WorkerEvent], object] | None
    clock: Callable[[], float]

    @property
    def platforms(self) -> list[str]:
        """The platforms that the worker serves."""
        return [*self.publishers]

    @property
    def checks(self) -> dict[str, Callable[[Job], object]]:
        """The checks of publishers for unknown outcomes, by platform."""
        if self.check_for < self.check_pause:
            return {}
        return {
            platform: publisher.check
            for platform, publisher in self.publishers.items()
            if publisher.check is not None
        }

    def retry_policy(self, platform: str) -> RetryPolicy | None:
        """The policy for a platform; None stands for the policy of the storage."""
        if self.retry is None or isinstance(self.retry, RetryPolicy):
            return self.retry
        return self.retry.get(platform)


def check_options(publishers: Mapping[str, Publisher], **options: Unpack[WorkerOptions]) -> CheckedOptions:
    """Validate the options, all of which must be given. Raises InvalidValue, which names the wrong option."""
    chosen = _chosen_publishers(publishers, options["platforms"])
    worker_id, batch = options["worker_id"], options["batch"]
    concurrency = check.whole("concurrency", options["concurrency"], least=1, most=_MOST_AT_ONCE)
    lease = _checked_lease(options["lease"])
    return CheckedOptions(
        worker_id=_new_worker_id() if worker_id is None else check.name("worker_id", worker_id),
        publishers=chosen,
        concurrency=concurrency,
        limits=_checked_limits(options["platform_concurrency"], chosen),
        batch=concurrency if batch is None else check.whole("batch", batch, least=1, most=check.MAX_LIMIT),
        lease=lease,
        heartbeat=_checked_heartbeat(options["heartbeat"], lease),
        poll=_seconds_above_zero("poll", options["poll"]),
        grace=_seconds("grace", options["grace"]),
        pause=_seconds("pause", options["pause"]),
        retry=_checked_retry(options["retry"], publishers),
        check_pause=_seconds_above_zero("check_pause", options["check_pause"]),
        check_for=_seconds("check_for", options["check_for"]),
        on_event=checked_hook(options["on_event"]),
        timeout=None if options["timeout"] is None else _seconds_above_zero("timeout", options["timeout"]),
        clock=_checked_clock(options["clock"]),
    )


def check_storage(storage: object) -> Storage:
    """Return the storage if a worker can use it. Raises InvalidValue, which says what to pass instead."""
    if isinstance(storage, Storage):
        if not storage._context.is_root:  # noqa: SLF001 - nobody else has to know
            raise InvalidValue(
                "storage belongs to a transaction or a bound connection, so others would not see what the "
                "worker stores: pass the storage that it was created from"
            )
        return storage
    kind = type(storage).__name__
    if kind.endswith("Backend"):
        raise InvalidValue(f"storage must be a Storage, not the engine itself: pass Storage({kind}(…))")
    cure = "use AsyncWorker" if "Async" in kind else "open_storage() returns one"
    raise InvalidValue(f"{check.wrong_type('storage', 'a Storage', storage)}: {cure}")


def check_event_loop(loop: object) -> asyncio.AbstractEventLoop:
    """Return the event loop. Raises InvalidValue for anything else, or if it is closed."""
    import asyncio

    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise check.wrong_type("loop", "an event loop of asyncio", loop)
    if loop.is_closed():
        raise InvalidValue("loop must not be closed: pass the running loop, or None")
    return loop


def _seconds(option: str, value: object) -> float:
    return min(check.seconds(option, value), _LONGEST_WAIT)


def _seconds_above_zero(option: str, value: object) -> float:
    seconds = _seconds(option, value)
    if not seconds:
        raise InvalidValue(f"{option} must be greater than 0 seconds")
    return seconds


def _new_worker_id() -> str:
    return f"{socket.gethostname()[:200] or 'host'}-{os.getpid()}-{secrets.token_hex(4)}"


def _chosen_publishers(
    publishers: Mapping[str, Publisher], platforms: Iterable[str] | None
) -> dict[str, CheckedPublisher]:
    if not isinstance(publishers, Mapping):
        raise check.wrong_type("publishers", "a mapping of platforms to publishers", publishers)
    for platform, publisher in publishers.items():
        check.name("a platform in publishers", platform)
        fault = publisher_fault(publisher)
        if fault is not None:
            raise InvalidValue(f"publishers[{platform!r}] {fault}")
    wanted = check.names("platforms", platforms)
    chosen = [*publishers] if wanted is None else wanted
    missing = [platform for platform in chosen if platform not in publishers]
    if missing:
        raise InvalidValue(f"platforms names {', '.join(map(repr, missing))}: missing in publishers")
    if not chosen:
        raise InvalidValue("publishers must not be empty: give at least one publisher")
    return {platform: checked_publisher(publishers[platform]) for platform in chosen}


def _checked_limits(limits: Mapping[str, int] | None, platforms: Iterable[str]) -> dict[str, int]:
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        raise check.wrong_type("platform_concurrency", "a mapping of platforms to numbers", limits)
    known = {*platforms}
    for platform, limit in limits.items():
        if platform not in known:
            raise InvalidValue(f"platform_concurrency names {check.shown(platform)}, which has no publisher")
        check.whole(f"platform_concurrency[{platform!r}]", limit, least=1, most=_MOST_AT_ONCE)
        check.name(f"the lock for {platform!r}", f"publish:{platform}:{limit}")
    return dict(limits)


def _checked_lease(lease: object) -> timedelta:
    checked = check.duration("lease", lease, zero=False)
    if checked > _LONGEST_LEASE:
        raise InvalidValue(f"lease must be at most {_LONGEST_LEASE.days} days, not {checked}")
    return checked


def _checked_heartbeat(heartbeat: timedelta | None, lease: timedelta) -> timedelta:
    if heartbeat is None:
        return lease / 3
    if check.duration("heartbeat", heartbeat, zero=False) >= lease:
        raise InvalidValue(f"heartbeat must be shorter than the lease of {lease}, not {heartbeat}")
    return heartbeat


def _checked_retry(
    retry: object, publishers: Mapping[str, Publisher]
) -> RetryPolicy | Mapping[str, RetryPolicy] | None:
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    if not isinstance(retry, Mapping):
        raise check.wrong_type("retry", "a RetryPolicy, or a mapping of platforms to them", retry)
    for platform, policy in retry.items():
        if platform not in publishers:
            raise InvalidValue(f"retry names {check.shown(platform)}, which has no publisher")
        check.instance(f"retry[{platform!r}]", policy, RetryPolicy)
    return dict(retry)


def _checked_clock(clock: Callable[[], float]) -> Callable[[], float]:
    if not callable(clock):
        raise check.wrong_type("clock", "callable", clock)
    now = clock()
    if not isinstance(now, int | float):
        raise InvalidValue(
            f"clock must return seconds as a number, like time.monotonic, not {check.shown(now)}"
        )
    return clock
