"""The pytest plug-in, in projects of its own that run in processes of their own."""

from __future__ import annotations

import psycopg
import pytest

from integrations.conftest import Run

pytest_plugins = ["pytester"]


def schemas(database_url: str) -> set[str]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'assistly_test_%'")
        return {row[0] for row in rows}


def test_the_storage_is_in_memory_whatever_the_environment_says(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SCHEDULE_MAX_RETRIES", "9")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    (pytester.path / ".env").write_text("STORAGE_ENGINE=nonsense\nSCHEDULE_MAX_RETRIES=x\n'")
    result = run(
        """
        def test_one(assistly_storage):
            assert repr(assistly_storage) == "Storage(MemoryBackend())"
            assert assistly_storage.queue.schedule("x", "a").max_retries == 3

        def test_each_is_empty(assistly_storage):
            assert sum(assistly_storage.queue.counts().values()) == 0
        """
    )
    result.assert_outcomes(passed=2)
    assert not (pytester.path / "data").exists()


def test_the_clock_moves_everything(run: Run) -> None:
    result = run(
        """
        from datetime import UTC, datetime, timedelta

        import pytest

        from assistly.storage import JobStatus
        from assistly.worker import Retry

        @pytest.mark.assistly_engines("memory", "sqlite")
        class TestTime:
            def test_it_stands_still(self, assistly_clock, assistly_storage):
                assert abs(datetime.now(UTC) - assistly_clock()) < timedelta(minutes=5)
                assert assistly_clock() == assistly_clock.now()
                job = assistly_storage.queue.schedule("x", "a")
                assert job.created_at == job.scheduled_at == assistly_clock()
                assert assistly_clock.advance(1.5) == job.created_at + timedelta(seconds=1.5)
                assert assistly_clock.advance(timedelta.resolution) == job.created_at + timedelta(0, 1.5, 1)

            def test_it_is_set(self, assistly_clock, assistly_storage):
                assert assistly_clock.set(datetime(2020, 1, 1, tzinfo=UTC)) == assistly_clock()
                assert assistly_clock.monotonic() == 0
                assert assistly_storage.queue.schedule("x", "a").created_at.year == 2020
                assistly_clock.set(datetime(2020, 1, 2, tzinfo=UTC))
                assert assistly_clock.monotonic() == 86_400

            def test_leases(self, assistly_clock, assistly_storage):
                assistly_storage.queue.schedule("x", "a")
                [job] = assistly_storage.queue.claim_due(worker_id="w", lease=timedelta(minutes=1))
                lock = assistly_storage.lock.acquire("me", ttl=timedelta(minutes=1))
                assert assistly_storage.queue.rescue_expired() == []
                assistly_clock.advance(timedelta(minutes=1))
                assert [rescued.id for rescued in assistly_storage.queue.rescue_expired()] == [job.id]
                assert assistly_storage.lock.current() is None

            def test_schedules(self, assistly_clock, assistly_storage, assistly_worker):
                assistly_clock.set(datetime(2026, 3, 28, 12, tzinfo=UTC))
                published = []
                at_nine = {"cron": "0 9 * * *", "zone": "Europe/Berlin"}
                assistly_storage.schedules.put("daily", "x", "good morning", **at_nine)
                worker = assistly_worker({"x": lambda job: published.append(job.scheduled_at)})
                assert published == []
                assistly_clock.set(datetime(2026, 3, 29, 7, tzinfo=UTC))  # 9:00, summer time
                worker.run_until_idle()
                assert published == [datetime(2026, 3, 29, 7, tzinfo=UTC)]

            def test_retries(self, assistly_clock, assistly_storage, assistly_worker):
                job = assistly_storage.queue.schedule("x", "a")
                calls = []

                def publish(job):
                    calls.append(assistly_clock())
                    if len(calls) == 1:
                        raise ValueError("not now")

                worker = assistly_worker({"x": publish})
                assert worker.counts == {"failed": 1}
                worker.run_until_idle()
                assert len(calls) == 1
                assert assistly_clock.advance(timedelta(minutes=5)) == calls[0] + timedelta(minutes=5)
                worker.run_until_idle()
                assert worker.counts == {"failed": 1, "posted": 1}
                assert assistly_storage.queue.get(job.id).posted_at == assistly_clock()

            @pytest.mark.parametrize("new_worker", [False, True])
            def test_pauses(self, assistly_clock, assistly_storage, assistly_worker, new_worker):
                assistly_storage.queue.schedule("x", "a")
                answers = [Retry(after=600), "remote-1", "remote-2"]

                def publish(job):
                    answer = answers.pop(0)
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

                worker = assistly_worker({"x": publish})
                assert worker.counts == {"snoozed": 1}
                assistly_storage.queue.schedule("x", "b")
                assistly_clock.advance(599.9)
                worker.run_until_idle()
                assert len(answers) == 2
                assert assistly_storage.platforms.get("x").paused
                assistly_clock.advance(0.1)
                if new_worker:
                    worker = assistly_worker({"x": publish})
                else:
                    worker.run_until_idle()
                assert answers == []
                assert assistly_storage.queue.counts()[JobStatus.POSTED] == 2

            def test_jobs_held_when_a_pause_begins(self, assistly_clock, assistly_storage, assistly_worker):
                for content in "ab":
                    assistly_storage.queue.schedule("x", content)
                answers = [Retry(after=600)] + ["remote"] * 2

                def publish(job):
                    answer = answers.pop(0)
                    if isinstance(answer, Exception):
                        raise answer
                    return answer

                worker = assistly_worker({"x": publish}, concurrency=1, batch=2)
                assistly_clock.advance(600)
                worker.run_until_idle()
                assert worker.counts["posted"] == 2

            def test_the_end_of_time(self, assistly_clock, assistly_storage, assistly_worker):
                # Leases end after the clock, so the last year is not for it.
                last = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
                assistly_clock.set(last)
                for move in (
                    lambda: assistly_clock.set(datetime.max.replace(tzinfo=UTC)),
                    lambda: assistly_clock.advance(1),
                    lambda: assistly_clock.advance(timedelta.max),
                    lambda: assistly_clock.advance(1e12),
                ):
                    with pytest.raises(ValueError, match="9999"):
                        move()
                assert assistly_clock() == last
                assistly_storage.queue.schedule("x", "a")
                lease = timedelta(days=365)
                assert assistly_worker({"x": lambda job: None}, lease=lease).counts == {"posted": 1}

            def test_a_wrong_step(self, assistly_clock):
                for wrong in (-1, "1", timedelta(-1)):
                    with pytest.raises(ValueError, match="step"):
                        assistly_clock.advance(wrong)
                with pytest.raises(ValueError, match="naive"):
                    assistly_clock.set(datetime(2026, 1, 1))
        """
    )
    # The last test uses no storage: it runs once.
    result.assert_outcomes(passed=19)


def test_the_worker_takes_options(run: Run) -> None:
    result = run(
        """
        def test_options(assistly_storage, assistly_worker):
            assistly_storage.queue.schedule("x", "a")
            seen = []
            options = {"worker_id": "me", "clock": lambda: 7.0}
            worker = assistly_worker({"x": lambda job: seen.append(job.worker_id)}, **options)
            assert worker.worker_id == "me"
            assert seen == ["me"]

        def test_a_coroutine(assistly_storage, assistly_worker):
            async def publish(job):
                return "remote"

            job = assistly_storage.queue.schedule("x", "a")
            assistly_worker({"x": publish})
            assert assistly_storage.queue.get(job.id).remote_id == "remote"
        """
    )
    result.assert_outcomes(passed=2)


def test_asserts_of_publishers_reach_the_test(run: Run) -> None:
    result = run(
        """
        import asyncio

        import pytest

        from assistly.storage import JobStatus
        from assistly.worker import NotPosted, Unknown

        @pytest.fixture
        def job(assistly_storage):
            return assistly_storage.queue.schedule("x", "a")

        def test_assert(job, assistly_worker):
            def publish(job):
                assert job.content == "another"

            assistly_worker({"x": publish})

        def test_fail(job, assistly_worker):
            assistly_worker({"x": lambda job: pytest.fail("on purpose")}, timeout=60)

        def test_skip(job, assistly_worker):
            async def publish(job):
                pytest.skip("on purpose")

            assistly_worker({"x": publish})

        class Checked:
            def publish(self, job, publication):
                raise Unknown("perhaps")

            async def check(self, job):
                assert job.content == "another"

        def test_check(job, assistly_clock, assistly_worker):
            worker = assistly_worker({"x": Checked()})
            assistly_clock.advance(60)
            with pytest.raises(AssertionError, match="another"):
                worker.run_until_idle()

        def test_group(job, assistly_worker):
            async def check(content):
                assert job.content == content

            async def publish(job):
                async with asyncio.TaskGroup() as group:
                    group.create_task(check("another"))

            with pytest.raises(ExceptionGroup):
                assistly_worker({"x": publish})

        @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
        @pytest.mark.parametrize("is_async", [False, True])
        def test_no_exception(job, assistly_storage, assistly_worker, error, is_async):
            def publish(job):
                raise error

            async def publish_async(job):
                raise error

            with pytest.raises(error):
                assistly_worker({"x": publish_async if is_async else publish})
            assert assistly_storage.queue.get(job.id).outcome_unknown

        def test_others_do_not(job, assistly_storage, assistly_clock, assistly_worker):
            answers = [
                AssertionError("the first run only"),
                ValueError(),
                Unknown("perhaps"),
                asyncio.CancelledError(),
            ]

            async def publish(job):
                if answers:
                    raise answers.pop(0)

            async def others(job):
                raise ExceptionGroup("", [ValueError()])

            worker = assistly_worker({"y": others})
            assistly_storage.queue.schedule("y", "b")
            worker.run_until_idle()
            with pytest.raises(AssertionError, match="the first run only"):
                assistly_worker({"x": publish})
            assert assistly_storage.queue.get(job.id).status is JobStatus.RETRYING
            worker = assistly_worker({"x": publish})
            for _ in range(3):
                assistly_storage.queue.schedule("x", "a")
                worker.run_until_idle()
            assert answers == []
            assert worker.counts == {"failed": 1, "unknown": 2}

        def test_the_same_worker_again(job, assistly_clock, assistly_worker):
            calls = []

            def publish(job):
                calls.append(job)
                assert len(calls) != 2

            worker = assistly_worker({"y": publish})
            worker._storage.queue.schedule("y", "a")
            worker.run_until_idle()
            worker._storage.queue.schedule("y", "a")
            with pytest.raises(AssertionError):
                worker.run_until_idle()
            worker._storage.queue.schedule("y", "a")
            worker.run_until_idle()
            assert len(calls) == 3
        """
    )
    result.assert_outcomes(passed=8, failed=2, skipped=1)
    result.stdout.fnmatch_lines_random(['>*assert job.content == "another"', "E*Failed: on purpose"])
    result.stdout.no_fnmatch_line("*invocation.py*")


def test_a_publisher_that_hangs_is_left_at_an_interrupt(run: Run) -> None:
    result = run(
        """
        import os, signal, threading

        import pytest

        def test_it(assistly_storage, assistly_worker, caplog):
            def publish(job):
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait()

            assistly_storage.queue.schedule("x", "a")
            with pytest.raises(KeyboardInterrupt):
                assistly_worker({"x": publish})
            assert "stops after its grace time of 2 s with unfinished work" in caplog.text
        """
    )
    result.assert_outcomes(passed=1)


ON_ENGINES = """
import pytest

pytestmark = pytest.mark.assistly_engines("sqlite", "postgres")

@pytest.mark.parametrize("number", [1, 2])
def test_it(assistly_storage, assistly_engine, number):
    assert type(assistly_storage._backend).__name__.lower() == f"{assistly_engine}backend"
    assert assistly_storage.queue.schedule("x", str(number)).id == 1

def test_that_fails(assistly_storage):
    assert assistly_storage.ping() < 0

@pytest.mark.assistly_engines("memory")
def test_the_nearest_marker_holds(assistly_storage, assistly_engine):
    assert assistly_engine == "memory"

def test_without_a_storage():
    pass
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")])
@pytest.mark.parametrize("variable", ["ASSISTLY_TEST_DATABASE_URL", "DATABASE_URL"])
def test_engines(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, options: tuple[str, ...]
) -> None:
    before = schemas(database_url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv(variable, database_url)
    result = run(ON_ENGINES, "-v", *options)
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines_random(
        ["*::test_it?sqlite-1?*", "*::test_it?postgres-2?*", "*::test_the_nearest_marker_holds?memory?*"]
    )
    assert schemas(database_url) <= before


def test_postgres_without_a_database_fails(run: Run) -> None:
    result = run(ON_ENGINES, "-k", "test_it and 1")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*assistly_storage on postgres needs a database: set ASSISTLY_TEST_DATABASE_URL*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_server_that_does_not_answer_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/none")
    result = run(ON_ENGINES, "-k", "test_it and 1")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["assistly_storage on postgres: cannot connect to Postgres: *"])
    assert "secret" not in result.stdout.str()


def test_a_project_chooses_its_engine(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def assistly_engine():
            return "sqlite"
        """
    )
    result = run(
        """
        def test_it(assistly_storage):
            assert "SqliteBackend" in repr(assistly_storage)
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("assistly_engines('sqllite')", "*assistly_engines takes memory, sqlite, postgres; got 'sqllite'*"),
        ("assistly_engines()", "*assistly_engines takes one or more of memory, sqlite, postgres*"),
        (
            "assistly_engines(name='sqlite')",
            "*assistly_engines takes one or more of memory, sqlite, postgres*",
        ),
    ],
)
def test_a_wrong_marker(run: Run, marker: str, message: str) -> None:
    result = run(f"import pytest\n@pytest.mark.{marker}\ndef test_it(assistly_storage): pass\n")
    assert result.ret != 0
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_marker_without_a_storage(run: Run) -> None:
    result = run("import pytest\n@pytest.mark.assistly_engines('sqlite')\ndef test_it(): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a test with assistly_engines must use the fixture assistly_storage*"])


UNREACHED = """
import unittest

import pytest

pytestmark = pytest.mark.assistly_engines("sqlite")

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def inject(self, assistly_storage):
        self.storage = assistly_storage

    def test_it(self):
        pass

@pytest.fixture
def store(request):
    return request.getfixturevalue("assistly_storage")

def test_it(store):
    pass
"""


def test_a_marker_that_does_not_reach_the_storage(run: Run) -> None:
    result = run(UNREACHED)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["assistly_engines has no effect here, *", "assistly_engines has no effect here, *"]
    )
    run(UNREACHED.replace("pytestmark", "_")).assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_marker_beside_a_project_that_chooses_its_engines(
    run: Run, pytester: pytest.Pytester, scope: str
) -> None:
    pytester.makeconftest(
        f"""
        import pytest

        @pytest.fixture(params=["memory", "sqlite"], scope="{scope}")
        def assistly_engine(request):
            return request.param
        """
    )
    result = run(
        """
        import pytest

        def test_all(assistly_storage):
            pass

        @pytest.mark.assistly_engines("sqlite")
        @pytest.mark.parametrize("number", [1, 2])
        def test_marked(assistly_storage, number):
            assert "SqliteBackend" in repr(assistly_storage)
        """,
        "-v",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(["*::test_all?memory?*", "*::test_marked?sqlite-2?*"])


def test_a_project_that_chooses_a_wrong_engine(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef assistly_engine(): return 'mysql'\n")
    result = run("def test_it(assistly_storage): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["the fixture assistly_engine must return memory, sqlite or postgres; got 'mysql'"]
    )


ASYNC = """
import pytest

from assistly.storage import AsyncStorage
from assistly.worker import AsyncWorker, Retry

{marker}
@pytest.mark.assistly_engines("memory", "sqlite")
async def test_it(assistly_storage, assistly_clock):
    answers = [Retry(after=60), "remote"]

    async def publish(job):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with AsyncStorage(assistly_storage) as storage:
        job = await storage.queue.schedule("x", "a")
        worker = AsyncWorker(storage, {{"x": publish}}, clock=assistly_clock.monotonic)
        await worker.run_until_idle()
        assistly_clock.advance(60)
        await worker.run_until_idle()
        assert (await storage.queue.get(job.id)).remote_id == "remote"
"""


@pytest.mark.parametrize(
    ("marker", "options"),
    [
        ("@pytest.mark.asyncio", ["-p", "no:anyio"]),
        ("@pytest.mark.asyncio", []),
        ("", ["-o", "asyncio_mode=auto"]),
        ("@pytest.mark.anyio", []),
        ("@pytest.mark.anyio", ["-p", "no:asyncio"]),
    ],
)
def test_asyncio(run: Run, pytester: pytest.Pytester, marker: str, options: list[str]) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """
    )
    run(ASYNC.format(marker=marker), *options).assert_outcomes(passed=2)


def test_a_project_that_does_not_use_it(run: Run) -> None:
    """Nothing is imported for it but the plug-in, and nothing runs in its tests."""
    result = run(
        """
        import sys, threading

        def test_it(request):
            loaded = {name for name in sys.modules if name.partition(".")[0] in ("assistly", "hypothesis")}
            assert loaded == {"assistly", "assistly.pytest_plugin"}
            assert not {"psycopg", "pydantic", "sqlite3", "asyncio"} & {*sys.modules}
            assert threading.active_count() == 1
            assert [name for name in request.fixturenames if "assistly" in name] == []
        """,
        "-p",
        "no:asyncio",
        "-p",
        "no:anyio",
        "-p",
        "no:xdist",
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:timeout",
    )
    result.assert_outcomes(passed=1)


def test_markers_and_fixtures_are_documented(run: Run) -> None:
    result = run("", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.assistly_engines(*names): *"])
    result = run("", "--fixtures")
    for name in ("assistly_clock", "assistly_engine", "assistly_storage", "assistly_worker"):
        result.stdout.fnmatch_lines_random([f"{name} -- *"])
