"""Names have up to 512 bytes, and all of them count: for telling them apart, and for their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ..records import ClaimState, JobStatus, NewJob
from ..storage import Storage
from .fixtures import DAY, HOUR, MINUTE, START, Contract, fresh_name

_LONGEST = 512


def _long_names() -> list[str]:
    """Equal but for their last two bytes, or for their length; in the order of their code points."""
    stem = fresh_name().ljust(_LONGEST - 2, "-")
    return [stem, f"{stem}a", f"{stem}aa", f"{stem}ab", f"{stem}b", f"{stem}\u00e9"]


def _register(storage: Storage, names: Sequence[str]) -> Any:
    first = [storage.nonces.register(name) for name in names]
    return first, [storage.nonces.seen(name) for name in names]


def _put_sessions(storage: Storage, names: Sequence[str]) -> Any:
    versions = [storage.sessions.put(name, name).version == 1 for name in names]
    return versions, [_data(storage.sessions.get(name)) == name for name in names]


def _put_keys(storage: Storage, names: Sequence[str]) -> Any:
    acquired = [storage.idempotency.claim(name).state is ClaimState.ACQUIRED for name in names]
    for name in names:
        storage.idempotency.put(name, name)
    return acquired, [_value(storage.idempotency.get(name)) == name for name in names]


def _add_approvals(storage: Storage, names: Sequence[str]) -> Any:
    added = [storage.approvals.add(name, name).id == name for name in names]
    return added, [_payload(storage.approvals.get(name)) == name for name in names]


def _put_snapshots(storage: Storage, names: Sequence[str]) -> Any:
    put = [storage.snapshots.put(name, name).kind == name for name in names]
    return put, [_payload(storage.snapshots.get(name)) == name for name in names]


def _count(storage: Storage, names: Sequence[str]) -> Any:
    for number, name in enumerate(names):
        storage.metrics.increment(name, number + 1)
    counters = storage.metrics.read().counters
    return [True] * len(names), [counters.get(name) == number + 1 for number, name in enumerate(names)]


def _acquire(storage: Storage, names: Sequence[str]) -> Any:
    locks = [storage.lock.acquire(name, ttl=HOUR, name=name) for name in names]
    current = [storage.lock.current(name) for name in names]
    return [lock is not None for lock in locks], [
        lock is not None and lock.owner_id == name for lock, name in zip(current, names, strict=True)
    ]


def _schedule_with_keys(storage: Storage, names: Sequence[str]) -> Any:
    jobs = [storage.queue.schedule("x", "a", idempotency_key=name) for name in names]
    again = [storage.queue.schedule("x", "a", idempotency_key=name) for name in names]
    return [job.idempotency_key == name for job, name in zip(jobs, names, strict=True)], [
        first.id == second.id for first, second in zip(jobs, again, strict=True)
    ]


def _schedule_on_platforms(storage: Storage, names: Sequence[str]) -> Any:
    storage.queue.schedule_many(NewJob(name, name, START, min_gap=MINUTE) for name in names)
    listed = [[job.content for job in storage.queue.list(platform=name)] == [name] for name in names]
    claimed = [storage.queue.claim_due(worker_id="w", platforms=[name]) for name in names]
    return listed, [
        [job.content for job in jobs] == [name] for jobs, name in zip(claimed, names, strict=True)
    ]


def _append(storage: Storage, names: Sequence[str]) -> Any:
    storage.events.append_many((name, name) for name in names)
    listed = [[event.payload for event in storage.events.list(event_type=name)] == [name] for name in names]
    read = [storage.events.read_after(0, event_type=name) for name in names]
    return listed, [
        [event.payload for event in page] == [name] for page, name in zip(read, names, strict=True)
    ]


def _pause(storage: Storage, names: Sequence[str]) -> Any:
    new = []
    for name in names:
        new.append(storage.platforms.get(name) is None)
        storage.platforms.pause(name, reason=name)
    platforms = [storage.platforms.get(name) for name in names]
    return new, [
        platform is not None and platform.reason == name
        for platform, name in zip(platforms, names, strict=True)
    ]


def _data(record: Any) -> Any:
    return record and record.data


def _value(record: Any) -> Any:
    return record and record.value


def _payload(record: Any) -> Any:
    return record and record.payload


_KINDS: dict[str, Callable[[Storage, Sequence[str]], Any]] = {
    "nonces": _register,
    "user ids": _put_sessions,
    "idempotency keys": _put_keys,
    "approval ids": _add_approvals,
    "snapshot kinds": _put_snapshots,
    "counters": _count,
    "locks": _acquire,
    "keys of jobs": _schedule_with_keys,
    "platforms": _schedule_on_platforms,
    "event types": _append,
    "paused platforms": _pause,
}
"""What a kind of name is used for: whether each was new, and whether each is found by its name."""


class LongNamesContract(Contract):
    @pytest.mark.parametrize("kind", _KINDS)
    def test_long_names_stay_apart(self, storage: Storage, kind: str) -> None:
        names = _long_names()
        new, found = _KINDS[kind](storage, names)
        assert [name for name, is_new in zip(names, new, strict=True) if not is_new] == []
        assert [name for name, is_found in zip(names, found, strict=True) if not is_found] == []

    def test_long_user_ids_are_ordered(self, storage: Storage) -> None:
        names = _long_names()
        for name in reversed(names):
            storage.sessions.put(name, 1)
        assert [session.user_id for session in storage.sessions.list()] == names
        for place, name in enumerate(names):
            page = storage.sessions.list(after=name, limit=1)
            assert [session.user_id for session in page] == names[place + 1 : place + 2]

    def test_long_snapshot_kinds_are_ordered(self, storage: Storage) -> None:
        names = _long_names()
        for name in reversed(names):
            storage.snapshots.put(name, 1)
        assert [snapshot.kind for snapshot in storage.snapshots.list() if snapshot.kind in names] == names

    def test_other_long_texts_are_kept(self, storage: Storage) -> None:
        """Workers, remote ids, owners, statuses and fingerprints are compared with nothing but themselves."""
        name, other = _long_names()[2:4]
        storage.queue.schedule("x", "a")
        (job,) = storage.queue.claim_due(worker_id=name)
        assert job.worker_id == name
        assert storage.queue.mark_posted(job, other).remote_id == other
        stored = storage.queue.list(status=JobStatus.POSTED)[0]
        assert stored.remote_id == other
        approval = storage.approvals.add("id", 1, status=name)
        assert storage.approvals.list(status=name) == [approval]
        assert storage.approvals.list(status=other) == []
        decided = storage.approvals.decide("id", other, expected=name)
        assert storage.approvals.list(status=other) == [decided]
        storage.idempotency.claim("key", fingerprint=name)
        assert storage.idempotency.claim("key", fingerprint=name, now=START + DAY).fingerprint == name
        lock = storage.lock.acquire(name, ttl=HOUR, name=name)
        assert storage.lock.acquire(other, ttl=HOUR, name=name) is None
        assert storage.lock.current(name) == lock
