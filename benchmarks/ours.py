"""Assistly through its public API, with its default settings."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

from assistly.storage import AsyncStorage, Job, NewJob, Posted, Storage, open_async_storage, open_storage
from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.retention import RetentionPolicy
from assistly.worker import Worker

from .floors import postgres_prune, sqlite
from .floors.postgres_jobs import CONTRACT, Connection, connected, filler, load_history
from .floors.postgres_keys import SESSION
from .model import Environment, Measure, Numbers, throughput, times
from .parallel import parallel_workers
from .pickup import TIMEOUT, Arrivals, in_thread, picked_up
from .tasks import concurrent_calls
from .workload import BATCH, PLATFORM, WORKER, content, in_batches, nonce, until_empty

if TYPE_CHECKING:
    from assistly.storage.engine.protocol import StorageBackend

Fill = Callable[[int], int]
Opened = AbstractContextManager[tuple[Storage, Fill]]


def _postgres_settings(environment: Environment, schema: str) -> dict[str, Any]:
    return {
        "engine": "postgres",
        "database_url": environment.database_url,
        "schema": schema,
        "pool_size": environment.pool_size,
    }


@contextmanager
def _on_postgres(environment: Environment) -> Iterator[tuple[Storage, Connection]]:
    """A storage in a schema of its own, and another connection to its tables."""
    with (
        environment.new_schema() as schema,
        open_storage(**_postgres_settings(environment, schema)) as storage,
        connected(environment.database_url, schema) as connection,
    ):
        yield storage, connection


@contextmanager
def _postgres_schema(environment: Environment) -> Iterator[tuple[dict[str, Any], Connection]]:
    """Settings for storages in other processes, whose tables are there already."""
    with environment.new_schema() as schema:
        settings = _postgres_settings(environment, schema)
        with open_storage(**settings):
            pass
        with connected(environment.database_url, schema) as connection:
            yield settings, connection


@contextmanager
def postgres(environment: Environment) -> Iterator[tuple[Storage, Fill]]:
    """A storage, and what puts so many due jobs in, instead of those that are there."""
    with _on_postgres(environment) as (storage, connection):
        yield storage, filler(connection, CONTRACT)


@contextmanager
def on_sqlite(environment: Environment) -> Iterator[tuple[Storage, Fill]]:
    path = environment.new_path()
    with (
        open_storage(engine="sqlite", sqlite_path=path) as storage,
        closing(sqlite.connected(path)) as connection,
    ):

        def fill(count: int) -> int:
            connection.execute("DELETE FROM assistly_queue_jobs")
            return _schedule_due(storage, count)

        yield storage, fill


@contextmanager
def in_memory(_: Environment) -> Iterator[tuple[Storage, Fill]]:
    with open_storage(engine="memory") as storage:
        yield storage, lambda count: _schedule_due(storage, count)


def _schedule_due(storage: Storage, count: int) -> int:
    return len(storage.queue.schedule_many(NewJob(PLATFORM, content(number)) for number in range(count)))


@contextmanager
def enqueue(environment: Environment, opened: Callable[[Environment], Opened]) -> Iterator[Measure]:
    with opened(environment) as (storage, _):
        yield throughput(times(lambda number: storage.queue.schedule(PLATFORM, content(number))), Numbers())


@contextmanager
def bulk(environment: Environment) -> Iterator[Measure]:
    with _on_postgres(environment) as (storage, connection):

        def prepare(count: int) -> list[NewJob]:
            connection.execute(f"TRUNCATE {CONTRACT.name}")
            return [NewJob(PLATFORM, content(number)) for number in range(count)]

        yield throughput(lambda jobs: len(storage.queue.schedule_many(jobs)), prepare)


@contextmanager
def drain(
    environment: Environment, opened: Callable[[Environment], Opened], limit: int = BATCH
) -> Iterator[Measure]:
    with opened(environment) as (storage, fill):
        yield throughput(until_empty(_step(storage, limit)), fill)


@contextmanager
def drain_beside(environment: Environment, limit: int, history: tuple[int, int, int]) -> Iterator[Measure]:
    with _on_postgres(environment) as (storage, connection):
        load_history(connection, CONTRACT, *history)
        yield throughput(until_empty(_step(storage, limit)), filler(connection, CONTRACT, keep=True))


@contextmanager
def drain_in_parallel(environment: Environment, workers: int) -> Iterator[Measure]:
    with (
        _postgres_schema(environment) as (settings, connection),
        parallel_workers(workers, _parallel_worker, (settings,), filler(connection, CONTRACT)) as measure,
    ):
        yield measure


@contextmanager
def _parallel_worker(settings: dict[str, Any]) -> Iterator[Callable[[], int]]:
    with open_storage(**settings) as storage:
        yield _step(storage, BATCH)


def _step(storage: Storage, limit: int) -> Callable[[], int]:
    """Claims and settles a batch; how many jobs that were."""
    queue = storage.queue

    def claim_and_settle() -> int:
        jobs = queue.claim_due(worker_id=WORKER, limit=limit)
        return len(queue.settle(map(Posted, jobs)).jobs) if jobs else 0

    return claim_and_settle


@contextmanager
def work(
    environment: Environment, opened: Callable[[Environment], Opened], concurrency: int
) -> Iterator[Measure]:
    """The worker: claim, begin, a publisher that does nothing, settle."""
    with opened(environment) as (storage, fill):

        def run(_: int) -> int:
            worker = Worker(storage, {PLATFORM: _publish}, concurrency=concurrency)
            worker.run_until_idle()
            return worker.counts["posted"]

        yield throughput(run, fill)


def _publish(_: Job) -> None:
    pass


@contextmanager
def pick_up(environment: Environment) -> Iterator[Measure]:
    with _postgres_schema(environment) as (settings, _), open_storage(**settings) as storage:

        def receive() -> float:
            if not storage.queue.wait(TIMEOUT):
                raise TimeoutError("no job came")
            (job,) = storage.queue.claim_due(worker_id=WORKER, limit=1)
            received = time.monotonic()
            storage.queue.mark_posted(job)
            return received

        with picked_up(receive, _enqueuer, (settings,)) as measure:
            yield measure


@contextmanager
def worker_pick_up(environment: Environment) -> Iterator[Measure]:
    """Until the worker calls the publisher."""
    arrivals = Arrivals()
    with _postgres_schema(environment) as (settings, _), open_storage(**settings) as storage:
        worker = Worker(storage, {PLATFORM: lambda _: arrivals.note()})
        with (
            in_thread(worker.run, worker.stop),
            picked_up(arrivals.receive, _enqueuer, (settings,)) as measure,
        ):
            yield measure


@contextmanager
def _enqueuer(settings: dict[str, Any]) -> Iterator[Callable[[], object]]:
    with open_storage(**settings) as storage:
        yield lambda: storage.queue.schedule(PLATFORM, "content")


@contextmanager
def put_nonce(environment: Environment, opened: Callable[[Environment], Opened]) -> Iterator[Measure]:
    with opened(environment) as (storage, _):
        yield throughput(times(lambda number: storage.nonces.register(nonce(number))), Numbers())


@contextmanager
def put_nonces(environment: Environment, opened: Callable[[Environment], Opened]) -> Iterator[Measure]:
    with opened(environment) as (storage, _):
        numbers = Numbers()
        yield throughput(
            lambda batches: sum(storage.nonces.register_many(batch).count(True) for batch in batches),
            lambda count: in_batches(map(nonce, numbers(count))),
        )


@contextmanager
def claim_key(environment: Environment, opened: Callable[[Environment], Opened]) -> Iterator[Measure]:
    with opened(environment) as (storage, _):
        yield throughput(times(lambda number: storage.idempotency.claim(nonce(number))), Numbers())


@contextmanager
def await_nonces(environment: Environment, callers: int) -> Iterator[Measure]:
    """Calls that are under way together may share a statement."""
    with _awaited(environment, callers, lambda storage: storage.nonces.register) as measure:
        yield measure


@contextmanager
def await_sessions(environment: Environment, callers: int) -> Iterator[Measure]:
    """Each call is a statement of its own."""
    session = json.loads(SESSION)

    def putting(storage: AsyncStorage) -> Callable[[str], Awaitable[bool]]:
        async def put(user_id: str) -> bool:
            return (await storage.sessions.put(user_id, session)).version > 0

        return put

    with _awaited(environment, callers, putting) as measure:
        yield measure


@contextmanager
def _awaited(
    environment: Environment,
    callers: int,
    call: Callable[[AsyncStorage], Callable[[str], Awaitable[bool]]],
) -> Iterator[Measure]:
    with environment.new_schema() as schema, asyncio.Runner() as runner:

        async def opened() -> AsyncStorage:
            return await open_async_storage(**_postgres_settings(environment, schema))

        storage = runner.run(opened())
        try:
            yield concurrent_calls(runner, call(storage), callers)
        finally:
            runner.run(storage.close())


@contextmanager
def prune(environment: Environment) -> Iterator[Measure]:
    with environment.new_schema() as schema:
        engine = PostgresBackend(environment.database_url, pool_size=environment.pool_size, schema=schema)
        backend = _TimedBackend(engine)
        policy = RetentionPolicy(posted_age=postgres_prune.AGE)
        with (
            Storage(cast("StorageBackend", backend), retention=policy, auto_prune=False) as storage,
            connected(environment.database_url, schema) as connection,
        ):
            storage.ping()

            def prune_forced() -> tuple[int, float]:
                backend.retention.longest = 0.0
                return storage.prune(force=True).posted, backend.retention.longest

            yield postgres_prune.pruning(connection, prune_forced)


@contextmanager
def prune_nonces(environment: Environment) -> Iterator[Measure]:
    with _on_postgres(environment) as (storage, connection):
        yield postgres_prune.pruning_nonces(connection, lambda: storage.prune(force=True).nonces)


class _TimedStore:
    """Times the calls of a store; each is one statement."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.longest = 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._store, name)

        def timed(*args: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            answer = call(*args, **keywords)
            self.longest = max(self.longest, time.perf_counter() - began)
            return answer

        return timed


class _TimedBackend:
    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend
        self.retention = _TimedStore(backend.retention)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
