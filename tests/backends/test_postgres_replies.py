"""Requests and replies that get lost on the way: what the caller, and the worker, make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from assistly.storage import ClaimState, Job, JobStatus, NewJob, OutcomeUnknown, RetryPolicy, Storage
from assistly.storage.engines.postgres import PostgresBackend
from assistly.worker import Worker
from postgres_proxy import Proxy
from postgres_server import TemporaryServer
from waiting import until

NOW = datetime(2030, 1, 1, tzinfo=UTC)
# The whole of a message: BEGIN names the level READ COMMITTED.
COMMIT = "COMMIT\0"
CLAIM = "claim = claim + 1"
BEGIN = "publish_started_at = coalesce"
SETTLE = "status = 'posted'"
LANDED = pytest.mark.parametrize("landed", [True, False], ids=["reply lost", "request lost"])


@pytest.fixture
def open_storage(schema: str) -> Iterator[Callable[[str], Storage]]:
    with ExitStack() as opened:

        def open_one(url: str) -> Storage:
            retry = RetryPolicy(delay=timedelta(0))
            storage = Storage(PostgresBackend(url, 4, schema=schema), retry=retry, auto_prune=False)
            storage.ping()
            return opened.enter_context(closing(storage))

        yield open_one


@pytest.fixture
def direct(server: TemporaryServer, open_storage: Callable[[str], Storage]) -> Storage:
    return open_storage(server.url)


@pytest.fixture
def proxied(proxy: Proxy, open_storage: Callable[[str], Storage]) -> Storage:
    return open_storage(proxy.url)


def lose(proxy: Proxy, word: str, *, landed: bool) -> None:
    (proxy.cut_reply if landed else proxy.cut_before)(word)


def schedule(storage: Storage) -> list[Job]:
    return [storage.queue.schedule("x", "content", NOW, idempotency_key="key")]


def schedule_many(storage: Storage) -> list[Job]:
    return storage.queue.schedule_many(
        [NewJob("x", "content", NOW, idempotency_key=key) for key in ("key", "other key")]
    )


def schedule_apart(storage: Storage) -> list[Job]:
    gap = timedelta(minutes=1)
    return [storage.queue.schedule("x", "content", NOW, idempotency_key="key", min_gap=gap)]


def schedule_with_others(storage: Storage) -> list[Job]:
    with storage.transaction() as tx:
        tx.sessions.put("user", "scheduling")
        return schedule(tx)


@LANDED
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (schedule, "INSERT INTO"),
        (schedule_many, COMMIT),
        (schedule_apart, COMMIT),
        (schedule_with_others, COMMIT),
    ],
    ids=["schedule", "schedule_many", "with a gap", "in a transaction"],
)
def test_a_repetition_under_the_same_key_stores_nothing_twice(
    proxy: Proxy,
    direct: Storage,
    proxied: Storage,
    call: Callable[[Storage], list[Job]],
    word: str,
    landed: bool,
) -> None:
    lose(proxy, word, landed=landed)
    with pytest.raises(OutcomeUnknown) as caught:
        call(proxied)
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert proxy.cuts == 1
    before = direct.queue.list()
    jobs = call(proxied)
    assert direct.queue.list() == jobs
    assert before == (jobs if landed else [])


@LANDED
def test_an_append_is_not_repeated_unasked(
    proxy: Proxy, direct: Storage, proxied: Storage, landed: bool
) -> None:
    lose(proxy, "INSERT INTO", landed=landed)
    with pytest.raises(OutcomeUnknown):
        proxied.events.append("told", "once")
    assert proxy.cuts == 1
    assert len(direct.events.list()) == landed


@LANDED
def test_an_append_under_a_key_is_repeated_without_harm(
    proxy: Proxy, direct: Storage, proxied: Storage, landed: bool
) -> None:
    def append_once() -> None:
        with proxied.transaction() as tx:
            claim = tx.idempotency.claim("key")
            if claim.state is ClaimState.ACQUIRED:
                tx.idempotency.complete(claim, tx.events.append("told", "once").id)

    lose(proxy, COMMIT, landed=landed)
    with pytest.raises(OutcomeUnknown):
        append_once()
    assert len(direct.events.list()) == landed
    append_once()
    (event,) = direct.events.list()
    record = direct.idempotency.get("key")
    assert record is not None
    assert record.value == event.id


@LANDED
@pytest.mark.parametrize("word", [CLAIM, BEGIN, SETTLE], ids=["claim", "begin", "settle"])
def test_a_worker_publishes_once(
    proxy: Proxy, direct: Storage, proxied: Storage, word: str, landed: bool
) -> None:
    published: list[int] = []

    def publish(job: Job) -> str:
        published.append(job.id)
        return "remote"

    def posted() -> bool:
        return direct.queue.counts()[JobStatus.POSTED] == 1

    job = direct.queue.schedule("x", "content")
    worker = Worker(proxied, {"x": publish}, lease=timedelta(seconds=1.5))
    lose(proxy, word, landed=landed)
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(worker.run, handle_signals=False)
        try:
            until(posted)
        finally:
            worker.stop()
        run.result()
    assert proxy.cuts == 1
    assert published == [job.id]
    assert worker.counts == {"posted": 1}
    (settled,) = direct.queue.list()
    assert settled.publish_started_at is not None
    assert (settled.remote_id, settled.retries) == ("remote", int(word == CLAIM and landed))
