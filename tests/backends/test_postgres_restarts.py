"""A server that is restarted, or killed, while it is in use."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta

import psycopg
import pytest

from assistly.storage import Job, JobStatus, RetryPolicy, Storage
from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.engines.postgres.wakeups import Wakeups
from assistly.worker import Worker
from backends.restart_load import PATIENCE, PUBLISHED, Word, Writer, all_jobs, lies
from postgres_server import TemporaryServer
from waiting import until

POOL_SIZE = 8
WRITERS = 4
CONCURRENCY = 4
LEASE = timedelta(seconds=3)
MODES = ("fast", "immediate", "kill")
ACTIVE = (JobStatus.SCHEDULED, JobStatus.RETRYING, JobStatus.PROCESSING)
SOON = 0.3
QUICK = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[TemporaryServer]:
    # SIGKILL may interrupt the writing of a page half-way.
    with closing(TemporaryServer(full_page_writes="on")) as server:
        yield server


@pytest.fixture
def open_storage(server: TemporaryServer, schema: str) -> Iterator[Callable[[], Storage]]:
    with ExitStack() as opened:

        def open_one() -> Storage:
            backend = PostgresBackend(server.url, POOL_SIZE, schema=schema)
            retry = RetryPolicy(delay=timedelta(0))
            return opened.enter_context(closing(Storage(backend, retry=retry, auto_prune=False)))

        yield open_one


def take_down(server: TemporaryServer, mode: str) -> None:
    if mode == "kill":
        server.kill()
    else:
        server.stop("immediate" if mode == "immediate" else "fast")


class Load:
    """Writers and a worker, each with connections of its own, as in two processes."""

    def __init__(self, open_storage: Callable[[], Storage]) -> None:
        self.storage, self.worker_storage = open_storage(), open_storage()
        self.published: list[int] = []
        self.stop = threading.Event()
        self.writers = [Writer(self.storage, str(number), self.stop) for number in range(WRITERS)]
        self.worker = Worker(
            self.worker_storage, {PUBLISHED: self._publish}, concurrency=CONCURRENCY, lease=LEASE
        )
        self.broken = False

    def _publish(self, job: Job) -> str:
        self.published.append(job.id)
        self.stop.wait(0.005)
        return f"remote-{job.id}"

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(WRITERS + 1) as threads:
            runs = [threads.submit(writer.run) for writer in self.writers]
            runs.append(threads.submit(self.worker.run, handle_signals=False))
            for run in runs:
                run.add_done_callback(self._ended)
            try:
                yield
            finally:
                self.stop.set()
                self.worker.stop()
                for run in runs:
                    run.result()

    def _ended(self, run: Future[None]) -> None:
        self.broken |= run.exception() is not None

    def told(self, *words: Word) -> int:
        return sum(writer.told[word] for writer in self.writers for word in words)

    def goes_on(self, calls: int = 20, posts: int = 5) -> float:
        """Until every writer and the worker have done some more; how long the first call took."""
        goals = [writer.told[Word.STORED] + calls for writer in self.writers]
        stored, posted = self.told(Word.STORED), self.posted()
        first = self.until(lambda: self.told(Word.STORED) > stored)
        self.until(lambda: self.posted() >= posted + posts)
        self.until(lambda: all(map(Writer.has_reached, self.writers, goals)))
        return first

    def interrupt(self, server: TemporaryServer, mode: str) -> float:
        """Seconds from the start of the server to the first call that succeeds."""
        failed = self.told(Word.REFUSED, Word.UNKNOWN)
        take_down(server, mode)
        try:
            self.until(lambda: self.told(Word.REFUSED, Word.UNKNOWN) > failed)
        finally:
            server.start()
        return self.goes_on()

    def until(self, condition: Callable[[], object]) -> float:
        seconds = until(lambda: self.broken or condition())
        assert not self.broken
        return seconds

    def posted(self) -> int:
        return self.worker.counts.get("posted", 0)

    def end_writing(self) -> None:
        self.stop.set()
        self.until(lambda: not any(map(self._some, ACTIVE)))

    def _some(self, status: JobStatus) -> list[Job]:
        return self.storage.queue.list(status=status, platform=PUBLISHED, limit=1)

    def wakes_up(self) -> float:
        """The best of a few times from schedule to publish: one that only polls has none below a second."""
        wakeups: Wakeups = self.worker_storage._context.idle_backend._database._wakeups  # type: ignore[attr-defined]
        self.until(lambda: wakeups.is_listening)
        return min(self._picked_up() for _ in range(5))

    def _picked_up(self) -> float:
        began = time.monotonic()
        job = self.storage.queue.schedule(PUBLISHED, "wake up")
        self.until(lambda: job.id in self.published)
        return time.monotonic() - began

    def check(self, interruptions: int) -> None:
        words = {key: word for writer in self.writers for key, word in writer.words.items()}
        assert not lies(self.storage, words)
        calls = Counter(self.published)
        unclear = 0
        for job in all_jobs(self.storage, PUBLISHED):
            if job.status is JobStatus.POSTED:
                assert (job.remote_id, calls[job.id]) == (f"remote-{job.id}", 1)
            else:
                assert (job.dead_letter_reason or "").startswith("outcome unknown: ")
                assert calls[job.id] <= 1
                unclear += 1
            del calls[job.id]
        assert not calls
        assert unclear <= interruptions * CONCURRENCY


@pytest.mark.parametrize("mode", MODES)
def test_nothing_acknowledged_is_lost_and_work_goes_on(
    server: TemporaryServer, open_storage: Callable[[], Storage], mode: str
) -> None:
    load = Load(open_storage)
    with load.running():
        load.goes_on()
        assert load.interrupt(server, mode) < QUICK
        load.end_writing()
        assert load.wakes_up() < SOON
    load.check(1)


@pytest.mark.soak
def test_twenty_restarts(server: TemporaryServer, open_storage: Callable[[], Storage]) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    modes = random.Random(seed)
    load = Load(open_storage)
    slowest = 0.0
    with load.running():
        load.goes_on()
        for _ in range(20):
            slowest = max(slowest, load.interrupt(server, modes.choice(MODES)))
        load.end_writing()
        assert load.wakes_up() < SOON
    load.check(20)
    assert slowest < QUICK


@pytest.mark.parametrize("mode", MODES)
def test_a_result_that_comes_while_the_server_is_away_is_stored_later(
    server: TemporaryServer,
    open_storage: Callable[[], Storage],
    caplog: pytest.LogCaptureFixture,
    mode: str,
) -> None:
    storage = open_storage()
    calls: list[int] = []
    begun, release = threading.Event(), threading.Event()

    def publish(job: Job) -> str:
        calls.append(job.id)
        begun.set()
        release.wait()
        return "remote"

    job = storage.queue.schedule(PUBLISHED, "in flight")
    worker = Worker(storage, {PUBLISHED: publish})
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(worker.run_until_idle)
        assert begun.wait(PATIENCE)
        take_down(server, mode)
        release.set()
        until(lambda: f"cannot settle job {job.id}; will retry" in caplog.text)
        server.start()
        run.result()
    stored = storage.queue.get(job.id)
    assert stored is not None
    assert (stored.status, stored.remote_id) == (JobStatus.POSTED, "remote")
    assert calls == [job.id]


def fill_pool(storage: Storage) -> None:
    barrier = threading.Barrier(POOL_SIZE)

    def hold_one(_: int) -> None:
        with storage.transaction() as tx:
            tx.ping()
            barrier.wait()

    with ThreadPoolExecutor(POOL_SIZE) as threads:
        list(threads.map(hold_one, range(POOL_SIZE)))


def connections(server: TemporaryServer) -> int:
    with psycopg.connect(server.url, autocommit=True) as admin:
        found = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'assistly'")
        return int(found.fetchall()[0][0])


CALLS: dict[str, Callable[[Storage], object]] = {
    "read": lambda storage: storage.queue.counts(),
    "write": lambda storage: storage.nonces.register(str(time.monotonic_ns())),
    "transaction": lambda storage: storage.sessions.update("u", lambda _: 1, default=0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", CALLS)
def test_the_first_call_after_a_restart(
    server: TemporaryServer, open_storage: Callable[[], Storage], mode: str, call: str
) -> None:
    storage = open_storage()
    fill_pool(storage)
    assert connections(server) == POOL_SIZE
    take_down(server, mode)
    server.start()
    began = time.monotonic()
    assert CALLS[call](storage)
    assert time.monotonic() - began < QUICK


def test_the_first_calls_of_many_threads_after_a_restart(
    server: TemporaryServer, open_storage: Callable[[], Storage]
) -> None:
    storage = open_storage()
    fill_pool(storage)
    take_down(server, "immediate")
    server.start()
    began = time.monotonic()
    with ThreadPoolExecutor(2 * POOL_SIZE) as threads:
        assert all(threads.map(storage.nonces.register, map(str, range(2 * POOL_SIZE))))
    assert time.monotonic() - began < QUICK
