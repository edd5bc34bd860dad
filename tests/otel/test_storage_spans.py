"""Spans of calls of the storage."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from assistly.storage import (
    AsyncStorage,
    Failed,
    NewJob,
    NotFound,
    Posted,
    Storage,
    StorageBackend,
    VersionConflict,
)
from otel.recorded import Recorded, attributes_of, id_of, linked, parent_of

MINUTE = timedelta(minutes=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)

SYSTEMS = {"memory": "memory", "sqlite": "sqlite", "postgres": "postgresql"}


@pytest.fixture
def on_engine(make_backend: Callable[[int], StorageBackend]) -> Storage:
    return Storage(make_backend(4), auto_prune=False)


def test_a_call_is_a_span(spans: Recorded, on_engine: Storage, engine: str) -> None:
    with spans.tracer.start_as_current_span("own"):
        job = on_engine.queue.schedule("x", "secret content", idempotency_key="secret key")
        on_engine.sessions.put("secret user", {"secret": 1})
        on_engine.queue.get(job.id)
    own = spans.one("own")
    assert spans.names() == [
        *("assistly.queue.schedule", "assistly.sessions.put", "assistly.queue.get", "own"),
    ]
    assert {parent_of(span) for span in spans.all()[:-1]} == {id_of(own)}
    scheduled, put, got, _ = spans.all()
    kind = SpanKind.INTERNAL if engine == "memory" else SpanKind.CLIENT
    assert [scheduled.kind, put.kind, got.kind] == [SpanKind.PRODUCER, kind, kind]
    assert attributes_of(scheduled) == {
        "db.system.name": SYSTEMS[engine],
        "db.operation.name": "queue.schedule",
        "messaging.system": "assistly",
        "messaging.operation.name": "schedule",
        "messaging.operation.type": "send",
        "messaging.destination.name": "x",
        "messaging.message.id": str(job.id),
    }
    assert attributes_of(put) == {"db.system.name": SYSTEMS[engine], "db.operation.name": "sessions.put"}
    assert attributes_of(got) == {
        "db.system.name": SYSTEMS[engine],
        "db.operation.name": "queue.get",
        "messaging.destination.name": "x",
        "messaging.message.id": str(job.id),
    }
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all())
    assert "secret" not in "".join(span.to_json() for span in spans.all())


def test_an_error_is_the_status_of_its_span(spans: Recorded, storage: Storage) -> None:
    with pytest.raises(NotFound):
        storage.queue.cancel(17)
    with pytest.raises(VersionConflict):
        storage.sessions.put("ann", 1, expected_version=3)
    cancelled, put = spans.all()
    assert cancelled.status.status_code is put.status.status_code is StatusCode.ERROR
    assert cancelled.status.description == "there is no job 17"
    assert attributes_of(cancelled)["error.type"] == "assistly.storage.errors.NotFound"
    assert attributes_of(cancelled)["messaging.message.id"] == "17"


def test_one_call_is_one_span(spans: Recorded, storage: Storage) -> None:
    """Also if it calls other public methods."""
    storage.queue.schedule("x", "a")
    (job,) = storage.queue.claim_due(worker_id="ann")
    storage.queue.mark_failed(storage.queue.begin_publish(job), "no", retryable=False)
    storage.queue.dead_letters()
    assert spans.names() == [
        f"assistly.queue.{name}"
        for name in ("schedule", "claim_due", "begin_publish", "mark_failed", "dead_letters")
    ]


def test_what_a_callback_calls_has_spans_of_its_own(spans: Recorded, storage: Storage) -> None:
    storage.idempotency.run_once("key", lambda: storage.queue.schedule("x", "a").id)
    schedule, once = spans.all()
    assert (schedule.name, once.name) == ("assistly.queue.schedule", "assistly.idempotency.run_once")
    assert parent_of(schedule) == id_of(once)


def test_claims_and_settlements_link_to_the_spans_that_scheduled(spans: Recorded, storage: Storage) -> None:
    jobs = storage.queue.schedule_many([NewJob("x", "a"), NewJob("x", "b")])
    scheduled = spans.one("assistly.queue.schedule_many")
    assert scheduled.kind is SpanKind.PRODUCER
    assert attributes_of(scheduled)["messaging.batch.message_count"] == len(jobs) == 2
    storage.queue.schedule("y", "c")
    first, second, third = storage.queue.claim_due(worker_id="ann")
    claim = spans.one("assistly.queue.claim_due")
    single = spans.one("assistly.queue.schedule")
    assert linked(claim) == [id_of(scheduled), id_of(scheduled), id_of(single)]
    assert attributes_of(claim)["messaging.batch.message_count"] == 3
    assert attributes_of(claim)["messaging.operation.type"] == "receive"
    storage.queue.settle([Posted(first), Failed(second, "no")])
    settled = spans.one("assistly.queue.settle")
    assert linked(settled) == [id_of(scheduled), id_of(scheduled)]
    assert attributes_of(settled)["messaging.batch.message_count"] == 2
    storage.queue.mark_posted(third)
    assert linked(spans.one("assistly.queue.mark_posted")) == [id_of(single)]


def test_calls_that_find_nothing_are_no_spans(spans: Recorded, storage: Storage) -> None:
    storage.queue.claim_due(worker_id="ann")
    storage.queue.sweep_and_claim(worker_id="ann")
    storage.queue.rescue_expired()
    storage.schedules.run()
    storage.prune()
    storage.queue.wait(0)
    assert spans.names() == []
    assert spans.started == 0
    storage.queue.schedule("x", "a")
    storage.schedules.put("daily", "y", "b", every=timedelta(days=1))
    spans.clear()
    assert len(storage.queue.sweep_and_claim(worker_id="ann").jobs) == 1
    assert len(storage.schedules.run()) > 0
    assert spans.names() == ["assistly.queue.sweep_and_claim", "assistly.schedules.run"]
    claim, _ = spans.all()
    assert attributes_of(claim)["messaging.batch.message_count"] == 1
    assert len(claim.links) == 1
    assert claim.start_time is not None
    assert claim.end_time is not None
    assert claim.start_time < claim.end_time


def test_a_claim_that_fails_is_a_span(spans: Recorded, storage: Storage) -> None:
    with pytest.raises(ValueError, match="limit"):
        storage.queue.claim_due(worker_id="ann", limit=0)
    assert spans.one("assistly.queue.claim_due").status.status_code is StatusCode.ERROR


class TestTransactions:
    def test_a_transaction_is_the_parent_of_its_calls(
        self, spans: Recorded, on_engine: Storage, engine: str
    ) -> None:
        with spans.tracer.start_as_current_span("own"):
            with on_engine.transaction() as tx:
                job = tx.queue.schedule("x", "a")
                with tx.transaction() as inner:
                    inner.events.append("a", 1)
            on_engine.queue.get(job.id)
        append, schedule = spans.one("assistly.events.append"), spans.one("assistly.queue.schedule")
        inner_span, outer_span = spans.named("assistly.transaction")
        assert parent_of(append) == id_of(inner_span)
        assert parent_of(inner_span) == parent_of(schedule) == id_of(outer_span)
        own = id_of(spans.one("own"))
        assert parent_of(outer_span) == parent_of(spans.one("assistly.queue.get")) == own
        assert attributes_of(outer_span) == {
            "db.system.name": SYSTEMS[engine],
            "db.operation.name": "transaction",
            "assistly.outcome": "committed",
        }
        assert attributes_of(schedule)["db.system.name"] == SYSTEMS[engine]
        assert attributes_of(append)["db.system.name"] == SYSTEMS[engine]

    def test_calls_of_other_threads_and_in_spans_of_the_program(
        self, spans: Recorded, storage: Storage
    ) -> None:
        with spans.tracer.start_as_current_span("around"), storage.transaction() as tx:
            thread = threading.Thread(target=tx.events.append, args=("a", 1))
            thread.start()
            thread.join()
            with spans.tracer.start_as_current_span("own"):
                tx.events.list()
        transaction = id_of(spans.one("assistly.transaction"))
        assert parent_of(spans.one("assistly.events.append")) == transaction
        assert parent_of(spans.one("assistly.events.list")) == id_of(spans.one("own"))

    def test_one_that_is_undone(self, spans: Recorded, storage: Storage) -> None:
        with pytest.raises(ZeroDivisionError), storage.transaction():
            _ = 1 / 0
        span = spans.one("assistly.transaction")
        assert attributes_of(span)["assistly.outcome"] == "undone"
        assert attributes_of(span)["error.type"] == "ZeroDivisionError"
        assert span.status.status_code is StatusCode.ERROR

    def test_one_that_is_left_on_another_thread(self, spans: Recorded, storage: Storage) -> None:
        block = storage.transaction()
        tx = block.__enter__()
        tx.queue.schedule("x", "a")
        leaving = threading.Thread(target=block.__exit__, args=(None, None, None))
        leaving.start()
        leaving.join()
        transaction = id_of(spans.one("assistly.transaction"))
        assert parent_of(spans.one("assistly.queue.schedule")) == transaction
        assert not trace.get_current_span().get_span_context().is_valid
        assert attributes_of(spans.one("assistly.transaction"))["assistly.outcome"] == "committed"


def run(work: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(bounded())


def parents(spans: Recorded, name: str) -> set[int | None]:
    return {parent_of(span) for span in spans.named(name)}


class TestAsync:
    def test_the_parent_is_the_callers_span(
        self, spans: Recorded, open_one: Callable[..., AsyncStorage]
    ) -> None:
        """Also of calls that share a statement with those of other tasks."""
        storage = open_one()

        async def one(number: int) -> None:
            with spans.tracer.start_as_current_span(f"own {number}"):
                await storage.queue.schedule("x", f"{number}")
                await storage.nonces.register(f"{number}")
                await storage.sessions.put(f"{number}", number)
                await storage.sessions.update(f"{number}", lambda _: 1)

        async def all_of_them() -> None:
            async with storage:
                await asyncio.gather(*map(one, range(20)))

        run(all_of_them())
        own = {id_of(span) for span in spans.all() if span.name.startswith("own")}
        assert len(own) == 20
        for name in ("queue.schedule", "nonces.register", "sessions.put", "sessions.update"):
            found = spans.named(f"assistly.{name}")
            assert len(found) == 20
            assert parents(spans, f"assistly.{name}") == own
        assert len(spans.all()) == 5 * 20

    def test_each_job_carries_the_span_of_its_own_call(
        self, spans: Recorded, open_one: Callable[..., AsyncStorage]
    ) -> None:
        storage = open_one()

        async def all_of_them() -> list[Any]:
            async with storage:
                return await asyncio.gather(*(storage.queue.schedule("x", f"{n}") for n in range(20)))

        jobs = run(all_of_them())
        by_job = {attributes_of(span)["messaging.message.id"]: span for span in spans.all()}
        for job in jobs:
            span = by_job[str(job.id)]
            assert f"{id_of(span):016x}" in job.metadata["assistly.trace"]["traceparent"]

    def test_transactions(self, spans: Recorded, open_one: Callable[..., AsyncStorage]) -> None:
        storage = open_one()

        async def work() -> None:
            async with storage:
                with spans.tracer.start_as_current_span("own"):
                    async with storage.transaction() as tx:
                        await tx.queue.schedule("x", "a")
                    await storage.queue.counts()

        run(work())
        transaction = spans.one("assistly.transaction")
        assert parent_of(spans.one("assistly.queue.schedule")) == id_of(transaction)
        own = id_of(spans.one("own"))
        assert parent_of(transaction) == parent_of(spans.one("assistly.queue.counts")) == own

    def test_callbacks(self, spans: Recorded, open_one: Callable[..., AsyncStorage]) -> None:
        storage = open_one()

        async def command() -> int:
            return (await storage.queue.schedule("x", "a")).id

        async def work() -> None:
            async with storage:
                await storage.idempotency.run_once("key", command)

        run(work())
        schedule, once = spans.all()
        assert (schedule.name, once.name) == ("assistly.queue.schedule", "assistly.idempotency.run_once")
        assert parent_of(schedule) == id_of(once)

    def test_a_cancelled_call(self, spans: Recorded, open_one: Callable[..., AsyncStorage]) -> None:
        storage = open_one()

        async def work() -> None:
            async with storage:
                call = asyncio.create_task(storage.queue.counts())
                await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

        run(work())
        span: ReadableSpan = spans.one("assistly.queue.counts")
        assert attributes_of(span)["error.type"] == "asyncio.exceptions.CancelledError"


def test_threads_that_share_a_statement(spans: Recorded, on_engine: Storage) -> None:
    count = 16
    together = threading.Barrier(count)

    def work(number: int) -> None:
        together.wait()
        with spans.tracer.start_as_current_span(f"own {number}"):
            on_engine.queue.schedule("x", f"{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = {id_of(span) for span in spans.all() if span.name.startswith("own")}
    assert len(own) == count
    assert parents(spans, "assistly.queue.schedule") == own
