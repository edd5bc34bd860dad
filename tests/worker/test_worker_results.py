"""What is no publisher is refused; what is no remote id leaves the outcome unknown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from assistly.storage import ConfigurationError, InvalidValue, Job, JobStatus, MemoryBackend, Storage
from assistly.worker import AsyncWorker, Permanent, Unknown, Worker
from assistly.worker.publishers import load_publisher

LONG = 30.0


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


def outcome(storage: Storage, publisher: Any, **options: Any) -> Job:
    """The job that the publisher was called with, when it is settled."""
    job = storage.queue.schedule("x", "hello")
    worker = Worker(storage, {"x": publisher}, **options)
    worker.run_until_idle()
    settled = storage.queue.get(job.id)
    assert settled is not None
    return settled


def generator(_: Job) -> Iterator[str]:
    yield "remote"


async def async_generator(_: Job) -> AsyncIterator[str]:
    yield "remote"


async def coroutine(_: Job) -> str:
    return "remote"


def plain(_: Job) -> str:
    return "remote"


class Called:
    def __call__(self, job: Job) -> str:
        return f"remote-{job.id}"

    def method(self, job: Job) -> str:
        return f"remote-{job.id}"

    def generator(self, _: Job) -> Iterator[str]:
        yield "remote"


class CalledGenerator:
    def __call__(self, _: Job) -> Iterator[str]:
        yield "remote"


class CalledAsyncGenerator:
    async def __call__(self, _: Job) -> AsyncIterator[str]:
        yield "remote"


JOB: Any = None
NO_PUBLISHERS: list[tuple[Any, str]] = [
    (None, "another callable"),
    ("stdout", "another callable"),
    (Called, r"not the class Called: pass Called\(…\)"),
    (dict, "not the class dict"),
    (generator, "generator function"),
    (partial(generator), "generator function"),
    (Called().generator, "generator function"),
    (CalledGenerator(), "generator function"),
    (async_generator, "asynchronous generator function"),
    (CalledAsyncGenerator(), "asynchronous generator function"),
    (lambda: None, "must take the job, or the job and the publication"),
    (lambda job, client, more: None, "must take the job, or the job and the publication"),
    (lambda *, job: None, "must take the job, or the job and the publication"),
    (lambda job, *, client: None, "must take the job, or the job and the publication"),
    (Called.method, "must take the job, or the job and the publication"),
    (partial(plain, JOB), "must take the job, or the job and the publication"),
]


@pytest.mark.parametrize(("publisher", "message"), NO_PUBLISHERS)
def test_what_can_be_seen_before_a_call_is_refused(storage: Storage, publisher: Any, message: str) -> None:
    for kind in (Worker, AsyncWorker):
        with pytest.raises(InvalidValue, match=f"publishers\\['x'\\].*{message}"):
            kind(storage, {"x": publisher})


@pytest.mark.parametrize("name", ["generator", "async_generator", "Called", "nobody", "three"])
def test_the_command_line_refuses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = f"refused_{name}"
    (tmp_path / f"{module}.py").write_text(
        "def generator(job):\n    yield 'a'\n"
        "async def async_generator(job):\n    yield 'a'\n"
        "class Called: pass\n"
        "nobody = 5\n"
        "def three(job, client, more): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{module}:{name}"):
        load_publisher(f"{module}:{name}")


def wrapped(function: Callable[..., Any]) -> Callable[[Job], Any]:
    @wraps(function)
    def wrapper(job: Job) -> Any:
        return function(job, "client")

    return wrapper


@wrapped
def with_client(job: Job, client: str) -> str:
    return f"{client}-{job.id}"


PUBLISHERS: list[tuple[Any, str | None]] = [
    (plain, "remote"),
    (coroutine, "remote"),
    (Called(), "remote-1"),
    (Called().method, "remote-1"),
    (partial(lambda client, job: f"{client}-{job.id}", "client"), "client-1"),
    (with_client, "client-1"),
    (lambda *arguments: "remote", "remote"),
    (lambda job, client="client": client, "client"),
    (Mock(return_value="remote"), "remote"),
    (print, None),
]


@pytest.mark.parametrize(("publisher", "remote_id"), PUBLISHERS)
def test_what_can_be_called_with_a_job_is_a_publisher(
    storage: Storage, publisher: Any, remote_id: str | None
) -> None:
    job = outcome(storage, publisher)
    assert (job.status, job.remote_id) == (JobStatus.POSTED, remote_id)


class Named(StrEnum):
    ID = "named"


class Number(int):
    def __str__(self) -> str:
        return "not this"


@pytest.mark.parametrize(
    ("result", "remote_id"),
    [
        (None, None),
        ("a", "a"),
        (Named.ID, "named"),
        (0, "0"),
        (17, "17"),
        (-5, "-5"),
        (2**70, str(2**70)),
        (Number(3), "3"),
        pytest.param(10**5000, None, id="huge"),
    ],
)
def test_a_remote_id_is_stored_as_text(storage: Storage, result: Any, remote_id: str | None) -> None:
    for publisher in (lambda _: result, in_coroutine(result)):
        job = outcome(storage, publisher)
        assert (job.status, job.remote_id) == (JobStatus.POSTED, remote_id)
        assert job.remote_id is None or type(job.remote_id) is str


def in_coroutine(result: Any) -> Callable[[Job], Any]:
    async def publisher(_: Job) -> Any:
        return result

    return publisher


def in_future(result: Any) -> Callable[[Job], Any]:
    def publisher(_: Job) -> Any:
        future: Future[Any] = Future()
        future.set_result(result)
        return future

    return publisher


@pytest.mark.parametrize(
    ("result", "named"),
    [
        (False, "False"),
        (True, "True"),
        (1.5, "1.5"),
        (b"id", "a bytes"),
        ({"id": 1}, "a dict"),
        (["id"], "a list"),
        (("id",), "a tuple"),
        (httpx.Response(500), "a httpx.Response"),
        (object(), "an object"),
        (generator(None), "a generator, which has not run"),  # type: ignore[arg-type]
        (async_generator(None), "a generator, which has not run"),  # type: ignore[arg-type]
        (map(str, []), "a map"),
        (threading.Thread(), "a threading.Thread"),
    ],
)
def test_any_other_result_leaves_the_outcome_unknown(storage: Storage, result: Any, named: str) -> None:
    for publisher in (lambda _: result, in_coroutine(result), in_future(result)):
        job = outcome(storage, publisher)
        assert job.status is JobStatus.DEAD_LETTER
        assert job.dead_letter_reason == (
            "outcome unknown: the publisher must return a remote id, a str or an int, or None; "
            f"it returned {named}"
        )
        assert job.publish_started_at is not None


class Unreadable:
    """Raises when it is looked at, like a proxy outside of its context."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("outside of its context")


class UnreadableInt(int):
    def __int__(self) -> int:
        raise RuntimeError("no number")


@pytest.mark.parametrize("make", [Unreadable, UnreadableInt])
def test_a_result_that_raises_leaves_the_outcome_unknown(storage: Storage, make: Callable[[], Any]) -> None:
    for publisher in (lambda _: make(), in_coroutine(make()), in_future(make())):
        job = outcome(storage, publisher)
        assert job.dead_letter_reason == (
            "outcome unknown: examining the result of the publisher raised RuntimeError"
        )


def test_an_unknown_of_a_task_group_leaves_the_outcome_unknown(storage: Storage) -> None:
    async def request() -> None:
        raise Unknown("no answer")

    async def publisher(_: Job) -> None:
        async with asyncio.TaskGroup() as outer:
            async with asyncio.TaskGroup() as group:
                group.create_task(request())
            outer.create_task(request())

    assert outcome(storage, publisher).dead_letter_reason == "outcome unknown: no answer"


def test_another_exception_group_has_failed(storage: Storage) -> None:
    def publisher(_: Job) -> None:
        raise ExceptionGroup("several", [ValueError("bad"), ExceptionGroup("inner", [KeyError("x")])])

    job = outcome(storage, publisher)
    assert job.status is JobStatus.RETRYING
    assert job.last_error == "ExceptionGroup: several (2 sub-exceptions)"


def test_an_exception_whose_text_raises_has_failed(storage: Storage) -> None:
    class Wordless(ValueError):
        def __str__(self) -> str:
            raise SystemExit

    def publisher(_: Job) -> None:
        raise Wordless

    assert outcome(storage, publisher).last_error == "Wordless"


class TestAwaitables:
    def test_what_an_awaitable_returns_is_awaited_too(self, storage: Storage) -> None:
        async def publisher(job: Job) -> Any:
            return coroutine(job)

        assert outcome(storage, publisher).remote_id == "remote"

    def test_not_for_ever(self, storage: Storage) -> None:
        class Endless:
            def __await__(self) -> Any:
                return self
                yield  # which makes it a generator

        job = outcome(storage, lambda _: Endless())
        assert job.dead_letter_reason == (
            "outcome unknown: the publisher returned too many nested awaitables"
        )

    def test_a_future_of_an_executor_is_waited_for(self, storage: Storage) -> None:
        release = threading.Event()

        def work() -> int:
            assert release.wait(LONG)
            return 7

        with ThreadPoolExecutor() as executor:

            def publisher(_: Job) -> Future[int]:
                future = executor.submit(work)
                release.set()
                return future

            assert outcome(storage, publisher).remote_id == "7"

    def test_the_exception_of_a_future_counts(self, storage: Storage) -> None:
        with ThreadPoolExecutor() as executor:

            def publisher(_: Job) -> Future[Any]:
                def fail() -> None:
                    raise Permanent("no such account")

                return executor.submit(fail)

            assert outcome(storage, publisher).dead_letter_reason == "no such account"

    def test_a_future_that_was_cancelled_is_unknown(self, storage: Storage) -> None:
        def publisher(_: Job) -> Future[Any]:
            future: Future[Any] = Future()
            future.cancel()
            return future

        job = outcome(storage, publisher)
        assert job.dead_letter_reason == "outcome unknown: the publisher was cancelled"

    def test_a_task_is_awaited_on_its_own_loop(self, storage: Storage) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        async def start() -> asyncio.Task[str]:
            return asyncio.create_task(asyncio.sleep(0.01, "remote"))

        def publisher(_: Job) -> Any:
            return asyncio.run_coroutine_threadsafe(start(), loop).result()

        try:
            assert outcome(storage, publisher).remote_id == "remote"
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(LONG)
            loop.close()

    def test_a_future_of_a_loop_that_stands_is_unknown_unless_it_is_done(self, storage: Storage) -> None:
        loop = asyncio.new_event_loop()
        pending: asyncio.Future[str] = loop.create_future()
        done: asyncio.Future[str] = loop.create_future()
        done.set_result("remote")
        job = outcome(storage, lambda _: pending)
        assert job.dead_letter_reason == (
            "outcome unknown: the publisher returned a future of an event loop that is not running"
        )
        assert outcome(storage, lambda _: done).remote_id == "remote"
        loop.close()
