"""The pytest plug-in: a storage per test, a clock that the test controls, and a worker.

pytest loads it in every project that has this package installed, so it imports nothing else from the package
until a fixture is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from assistly.storage import Storage, StorageBackend
    from assistly.worker import Publisher, Worker, WorkerOptions

__all__ = [
    "ManualClock",
    "RunWorker",
    "assistly_clock",
    "assistly_engine",
    "assistly_storage",
    "assistly_worker",
]

# How long an interrupted test waits for its publishers.
_GRACE_SECONDS = 2.0
# Leases end after the time of the clock, and there is no year 10,000.
_END = datetime(9999, 1, 1, tzinfo=UTC)
_ENGINES = ("memory", "sqlite", "postgres")
_MARKER = "assistly_engines"
_URL_VARIABLES = ("ASSISTLY_TEST_DATABASE_URL", "DATABASE_URL")


class ManualClock:
    """A clock that moves only when the test moves it. It starts at the time of the machine.

    Call it to get the time. `monotonic` is the same clock in seconds, for the `clock` of a worker.
    """

    def __init__(self) -> None:
        self._now = datetime.now(UTC)
        self._seconds = 0.0

    def __call__(self) -> datetime:
        """Return the time, in UTC."""
        return self._now

    now = __call__

    def monotonic(self) -> float:
        """Return by how many seconds the clock was moved forward."""
        return self._seconds

    def advance(self, step: float | timedelta) -> datetime:
        """Move the clock forward, by a timedelta or seconds, and return the new time. Raises InvalidValue."""
        from assistly.storage.validation import later, seconds

        ahead = seconds("step", step)
        return self.set(later(self._now, step if isinstance(step, timedelta) else timedelta(seconds=ahead)))

    def set(self, time: datetime) -> datetime:
        """Set the clock to an aware datetime before the year 9999, and return it in UTC.

        If that is back, `monotonic` stays where it is. Raises InvalidValue for a naive or a later one.
        """
        from assistly.storage import InvalidValue
        from assistly.storage.validation import utc

        now = utc("time", time)
        if now >= _END:
            raise InvalidValue(f"the time must be before the year 9999, not {now}")
        self._seconds += max(0.0, (now - self._now).total_seconds())
        self._now = now
        return now


class RunWorker(Protocol):
    """The fixture `assistly_worker`."""

    def __call__(self, publishers: Mapping[str, Publisher], **options: Unpack[WorkerOptions]) -> Worker:
        """Make a worker, let it publish the jobs that are due, and return it.

        What a publisher or a check raises by `assert`, `pytest.fail` or `pytest.skip` is raised when the
        run has ended, in later runs of the worker as well.
        """


@pytest.fixture
def assistly_clock() -> ManualClock:
    """The clock of assistly_storage and assistly_worker. It moves only when the test moves it."""
    return ManualClock()


@pytest.fixture
def assistly_engine() -> str:
    """The engine of assistly_storage: memory, unless the marker assistly_engines says otherwise."""
    return "memory"


@pytest.fixture
def assistly_storage(
    request: pytest.FixtureRequest, assistly_clock: ManualClock, assistly_engine: str
) -> Iterator[Storage]:
    """An empty storage for the test, which reads neither the environment nor `.env`."""
    from assistly.storage import Storage

    _require_effect(request.node)
    with _opened(assistly_engine, request) as backend:
        storage = Storage(backend, clock=assistly_clock, auto_prune=False)
        try:
            yield storage
        finally:
            storage.close()


@pytest.fixture
def assistly_worker(assistly_storage: Storage, assistly_clock: ManualClock) -> RunWorker:
    """A function that runs a worker with these publishers until nothing more is due, and returns it."""
    from assistly.worker.raising import RaisingWorker

    def run(publishers: Mapping[str, Publisher], **options: Unpack[WorkerOptions]) -> Worker:
        __tracebackhide__ = True
        options.setdefault("clock", assistly_clock.monotonic)
        options.setdefault("grace", _GRACE_SECONDS)
        worker = RaisingWorker(assistly_storage, publishers, **options)
        worker.run_until_idle()
        return worker

    return run


@contextmanager
def _opened(engine: str, request: pytest.FixtureRequest) -> Iterator[StorageBackend]:
    if engine not in _ENGINES:
        pytest.fail(
            f"the fixture assistly_engine must return memory, sqlite or postgres; got {engine!r}",
            pytrace=False,
        )
    if engine == "postgres":
        with _postgres() as backend:
            yield backend
    elif engine == "sqlite":
        from assistly.storage import SqliteBackend

        folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("assistly")
        yield SqliteBackend(folder / "assistly.db")
    else:
        from assistly.storage import MemoryBackend

        yield MemoryBackend()


@contextmanager
def _postgres() -> Iterator[StorageBackend]:
    url = next(filter(None, map(os.environ.get, _URL_VARIABLES)), None)
    if url is None:
        pytest.fail(
            "assistly_storage on postgres needs a database: set ASSISTLY_TEST_DATABASE_URL (or DATABASE_URL) "
            "to one in which this role may create schemas",
            pytrace=False,
        )
    import secrets

    from assistly.storage import PostgresBackend
    from assistly.storage.engines.postgres.schemas import drop_schema

    schema = f"assistly_test_{secrets.token_hex(8)}"
    with _without_traceback():
        backend = PostgresBackend(url, schema=schema)
    try:
        with _without_traceback():
            backend.ping()
        yield backend
    finally:
        backend.close()
        with _without_traceback():
            drop_schema(url, schema)


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Fail with only the message of a StorageError: a traceback shows arguments, including passwords."""
    from assistly.storage import StorageError

    problem = None
    try:
        yield
    except StorageError as error:
        problem = f"assistly_storage on postgres: {error}"
    if problem is not None:
        pytest.fail(problem, pytrace=False)


def _require_effect(test: pytest.Item) -> None:
    """Fail if pytest has not applied the marker, since the test would run on another engine."""
    if test.get_closest_marker(_MARKER) is None:
        return
    if "assistly_engine" not in getattr(getattr(test, "callspec", None), "params", {}):
        pytest.fail(
            "assistly_engines has no effect here, in a unittest.TestCase or on a storage from "
            "getfixturevalue: take assistly_storage as an argument, or define the fixture assistly_engine "
            "instead",
            pytrace=False,
        )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(*names): run the test on each of these engines: memory, sqlite, postgres. Postgres is "
        "the database of ASSISTLY_TEST_DATABASE_URL or DATABASE_URL, in a schema of its own.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the marker once on each engine."""
    test = metafunc.definition
    marker = test.get_closest_marker(_MARKER)
    if marker is None:
        return
    if not marker.args or marker.kwargs:
        raise pytest.UsageError(f"assistly_engines takes one or more of {', '.join(_ENGINES)}")
    for name in marker.args:
        if name not in _ENGINES:
            raise pytest.UsageError(f"assistly_engines takes {', '.join(_ENGINES)}; got {name!r}")
    if "assistly_engine" in metafunc.fixturenames:
        # A marker, unlike metafunc.parametrize, replaces the parameters of a fixture.
        engines = pytest.mark.parametrize("assistly_engine", [*dict.fromkeys(marker.args)])
        test.add_marker(engines, append=False)
    elif marker in test.own_markers:
        raise pytest.UsageError("a test with assistly_engines must use the fixture assistly_storage")
