"""What comes in an order does so by itself, not because an index happens to be read in it.

A bound connection has the settings of its owner. Here they rule out all indexes, and the rows lie in
another order than their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import Storage
from assistly.storage.records import Failed, Job, NewJob
from assistly.storage.testing.fixtures import HOUR, MINUTE, START

WITHOUT_INDEXES = "-c enable_indexscan=off -c enable_indexonlyscan=off -c enable_bitmapscan=off"
PLACES = (4, 8, 1, 6, 0, 7, 3, 5, 2)
LIMIT = 5


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    url = make_conninfo(database_url, options=WITHOUT_INDEXES)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def bound(postgres: Storage, connection: psycopg.Connection[Any]) -> Storage:
    return postgres.bind(connection)


@pytest.fixture
def scatter(connection: psycopg.Connection[Any], schema: str) -> Callable[[], None]:
    """Let the jobs lie in another order than their ids. An update may put a row where another one was."""
    table = f'"{schema}".assistly_queue_jobs'

    def as_they_lie() -> list[int]:
        return [id for (id,) in connection.execute(f"SELECT id FROM {table}".encode())]

    def scatter() -> None:
        ids = sorted(as_they_lie())
        for _ in range(20):
            for place in PLACES:
                update = f"UPDATE {table} SET updated_at = updated_at + interval '0' WHERE id = %s"
                connection.execute(update.encode(), [ids[place]])
            if not set(as_they_lie()[:LIMIT]) <= set(ids[:LIMIT]):
                return
        raise AssertionError("they still lie in the order of their ids")

    return scatter


def jobs_of(storage: Storage) -> Any:
    return storage._context.backend.jobs


def waiting(storage: Storage) -> list[Job]:
    return storage.queue.schedule_many(NewJob("x", "a", START, max_lateness=MINUTE) for _ in PLACES)


def held(storage: Storage) -> list[Job]:
    waiting(storage)
    return storage.queue.claim_due(worker_id="w", lease=MINUTE, now=START)


def dead(storage: Storage) -> list[Job]:
    return storage.queue.settle([Failed(job, "refused", retryable=False) for job in held(storage)]).jobs


def replayed(storage: Storage) -> Sequence[Job]:
    storage.queue.replay_all(limit=LIMIT)
    return storage.queue.list(status="scheduled")


def missed(storage: Storage) -> Sequence[Job]:
    jobs_of(storage).dead_letter_late(limit=LIMIT, platforms=None, reason="missed: it", now=START + HOUR)
    return storage.queue.dead_letters()


CHOSEN: dict[str, tuple[Callable[[Storage], list[Job]], Callable[[Storage], Sequence[Job]]]] = {
    "claimed": (waiting, lambda s: s.queue.claim_due(worker_id="w", limit=LIMIT, now=START)),
    "waiting": (
        waiting,
        lambda s: jobs_of(s).waiting(until=None, platforms=None, after=None, limit=LIMIT),
    ),
    "late": (waiting, lambda s: jobs_of(s).late(limit=LIMIT, platforms=None, now=START + HOUR)),
    "missed": (waiting, missed),
    "expired": (held, lambda s: jobs_of(s).expired(limit=LIMIT, now=START + HOUR)),
    "replayed": (dead, replayed),
    "near": (
        waiting,
        lambda s: [job] if (job := s.queue.find_conflict("x", START, HOUR)) is not None else [],
    ),
}


@pytest.mark.parametrize("chosen", CHOSEN)
def test_of_equal_times_the_first_jobs_are_chosen(
    postgres: Storage, bound: Storage, scatter: Callable[[], None], chosen: str
) -> None:
    prepare, choose = CHOSEN[chosen]
    jobs = prepare(postgres)
    scatter()
    found = [job.id for job in choose(bound)]
    assert found == [job.id for job in jobs][: len(found)]
    assert len(found) == (1 if chosen == "near" else LIMIT)


def test_approvals(postgres: Storage, bound: Storage) -> None:
    for place in range(len(PLACES)):
        postgres.approvals.add(f"{place}", place, created_at=START)
    for place in PLACES:
        postgres.approvals.decide(f"{place}", "approved")
    assert [one.payload for one in bound.approvals.list(limit=LIMIT)] == [8, 7, 6, 5, 4]
    edge = bound._context.backend.retention.newest_beyond("approvals", 3)
    assert edge == (START, postgres.approvals.list()[3].sequence)
    assert bound._context.backend.retention.delete_up_to("approvals", edge, limit=2) == 2
    assert [one.payload for one in bound.approvals.list()] == [8, 7, 6, 5, 4, 3, 2]


def test_keys_and_sessions(postgres: Storage, bound: Storage) -> None:
    for place in range(len(PLACES)):
        postgres.idempotency.put(f"{place}", place, saved_at=START)
    for place in PLACES:
        postgres.idempotency.put(f"{place}", place, saved_at=START)
        postgres.sessions.put(f"{place}", place)
    retention = bound._context.backend.retention
    edge = retention.newest_beyond("idempotency", 3)
    assert edge is not None
    assert retention.delete_up_to("idempotency", edge, limit=2) == 2
    gone = [place for place in range(len(PLACES)) if bound.idempotency.get(f"{place}") is None]
    assert len(gone) == 2
    assert max(gone) < len(PLACES) - 3
    assert [session.data for session in bound.sessions.list(limit=LIMIT)] == [0, 1, 2, 3, 4]
    assert [session.data for session in bound.sessions.list(after="4", limit=2)] == [5, 6]


def test_events(postgres: Storage, bound: Storage) -> None:
    events = postgres.events.append_many((f"{place % 2}", place, START) for place in PLACES)
    newest = [event.payload for event in events[::-1]]
    assert [event.payload for event in bound.events.list(limit=LIMIT)] == newest[:LIMIT]
    assert bound.events.read_after(0, limit=LIMIT) == events[:LIMIT]
    odd = [event for event in events if event.event_type == "1"]
    assert bound.events.read_after(0, event_type="1", limit=3) == odd[:3]
