"""Both ways to run statements, and what a cursor would see to for the fast one."""

from __future__ import annotations

import _thread
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from assistly.storage.engines.postgres import wire
from assistly.storage.engines.postgres.adapters import adapt
from assistly.storage.engines.postgres.errors import is_conflict, translate
from assistly.storage.engines.postgres.executor import CursorExecutor, PostgresExecutor
from assistly.storage.engines.postgres.polling import poll_readable
from assistly.storage.engines.postgres.wire import LibpqExecutor, supports
from assistly.storage.errors import ConfigurationError
from assistly.storage.storage import Storage
from waiting import until

_PREPARED = "SELECT count(*) FROM pg_prepared_statements"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True, prepare_threshold=2) as connection:
        adapt(connection)
        yield connection


@pytest.fixture(params=[LibpqExecutor, CursorExecutor])
def executor(request: pytest.FixtureRequest, connection: psycopg.Connection[Any]) -> PostgresExecutor:
    made: PostgresExecutor = request.param(connection)
    return made


@pytest.fixture
def fast(connection: psycopg.Connection[Any]) -> LibpqExecutor:
    return LibpqExecutor(connection)


def test_parameters_are_found_by_their_names(executor: PostgresExecutor) -> None:
    statement = "SELECT %(second)s::text, %(first)s::text, %(second)s::text || '%%', 5 %% 3"
    row = ("b", "a", "b%", 2)
    assert executor.rows(statement, {"first": "a", "second": "b", "unused": 0}) == [row]


@pytest.mark.parametrize("times", [1, 5])
def test_values_come_back_as_they_went(executor: PostgresExecutor, times: int) -> None:
    values = {
        "text": 'ä\t\\ "quoted"',
        "number": 2**63 - 1,
        "moment": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        "flag": True,
        "texts": ["a", None, "b,c"],
        "nothing": None,
    }
    statement = (
        "SELECT %(text)s::text, %(number)s::bigint, %(moment)s::timestamptz, %(flag)s::boolean, "
        "%(texts)s::text[], %(nothing)s::text"
    )
    for _ in range(times):
        assert executor.rows(statement, values) == [tuple(values.values())]


def test_a_value_of_another_type_is_another_statement(executor: PostgresExecutor) -> None:
    for value in (None, "a", None, "b", datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2))), "c") * 3:
        ((found,),) = executor.rows("SELECT %(value)s", {"value": value})
        assert found == value


def test_a_statement_is_prepared_when_it_has_run_often_enough(fast: LibpqExecutor) -> None:
    prepared = []
    for _ in range(4):
        fast.rows("SELECT %(number)s", {"number": 1})
        prepared.append(int(fast.connection.execute(_PREPARED, prepare=False).fetchall()[0][0]))
    assert prepared == [0, 0, 1, 1]


def test_nothing_is_prepared_where_a_pooler_would_lose_it(executor: PostgresExecutor) -> None:
    executor.connection.prepare_threshold = None
    for _ in range(4):
        assert executor.rows("SELECT %(number)s", {"number": 1}) == [(1,)]
    assert executor.connection.execute(_PREPARED).fetchall() == [(0,)]


def test_the_oldest_of_too_many_prepared_statements_is_given_up(
    fast: LibpqExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_MOST_STATEMENTS", 3)
    for number in (1, 2, 3, 4, 1):
        for _ in range(4):
            assert fast.rows(f"SELECT {number}", {}) == [(number,)]
    assert fast.connection.execute(_PREPARED).fetchall() == [(3,)]


def test_counts_of_changed_rows(executor: PostgresExecutor) -> None:
    executor.command("CREATE TEMPORARY TABLE numbers AS SELECT generate_series(1, 5) AS number")
    assert executor.execute("DELETE FROM numbers WHERE number > %(least)s", {"least": 3}) == 2
    assert executor.execute("DELETE FROM numbers WHERE number > %(least)s", {"least": 3}) == 0
    assert [executor.command("BEGIN"), executor.command("ROLLBACK")] == ["BEGIN", "ROLLBACK"]


def test_the_link_is_as_good_as_before_after_an_error(executor: PostgresExecutor) -> None:
    for _ in range(4):
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            executor.rows("SELECT 1 / %(number)s", {"number": 0})
        assert caught.value.sqlstate == "22012"
        assert executor.rows("SELECT 1 / %(number)s", {"number": 1}) == [(1,)]
    with pytest.raises(psycopg.errors.SyntaxError):
        executor.command("SELEC")
    with pytest.raises(psycopg.errors.UndefinedTable):
        executor.command("SELECT 1; SELECT * FROM nowhere")
    assert executor.command("SELECT 1") == "SELECT 1"


def test_statements_and_answers_of_many_megabytes(executor: PostgresExecutor) -> None:
    text = "ä" * 8 * 2**20
    assert executor.rows("SELECT %(text)s || 'b', generate_series(1, 2)", {"text": text}) == [
        (text + "b", 1),
        (text + "b", 2),
    ]


def test_a_server_that_says_much_while_it_is_told_much(fast: LibpqExecutor) -> None:
    """Notices fill the way back, while the statement is not through yet."""
    noisy = "DO $$ BEGIN FOR i IN 1..2000 LOOP RAISE NOTICE '%', repeat('n', 2000); END LOOP; END $$;"
    assert fast.command(noisy + f" SELECT length('{'x' * 2**22}');") == "SELECT 1"


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Also where the tests were started to ignore SIGINT, as with `nohup … &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_statement_is_cancelled(fast: LibpqExecutor, database_url: str) -> None:
    """As by Ctrl-C: nobody waits for it any more, so it must not happen later."""
    fast.command("CREATE TEMPORARY TABLE slow (done boolean)")
    pid = fast.connection.info.backend_pid

    def interrupt() -> None:
        with psycopg.connect(database_url, autocommit=True) as other:
            until(lambda: is_asleep(other, pid))
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fast.rows("INSERT INTO slow SELECT pg_sleep(600) IS NULL", {})
    thread.join()
    assert fast.rows("SELECT count(*) FROM slow", {}) == [(0,)]


def test_a_link_that_broke_says_so(fast: LibpqExecutor, database_url: str) -> None:
    pid = fast.connection.info.backend_pid
    readable = poll_readable(fast.connection.fileno())
    assert not readable(0)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    assert readable(0)
    with pytest.raises(psycopg.OperationalError):
        fast.rows("SELECT 1", {})
    assert fast.connection.closed


def test_a_name_stands_for_one_text_alone(database_url: str) -> None:
    """Else a pooler that lends sessions to several clients would run another client's statement."""
    names: dict[str, set[str]] = {}
    for order in ("12", "21", "3"):
        with psycopg.connect(database_url, autocommit=True, prepare_threshold=0) as connection:
            executor = LibpqExecutor(connection)
            for number in order:
                executor.rows(f"SELECT {number}, %(value)s", {"value": 1})
                executor.rows(f"SELECT {number}, %(value)s", {"value": None})
            found = connection.execute(
                "SELECT name, statement || parameter_types::text FROM pg_prepared_statements", prepare=False
            )
            for name, text in found.fetchall():
                names.setdefault(name, set()).add(text)
    assert len(names) == 6
    assert all(len(texts) == 1 for texts in names.values())


@pytest.mark.parametrize("begin", ["SELECT 1", "BEGIN"])
def test_an_exception_after_preparing_a_statement(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """Such as Ctrl-C. The statement exists, although its name was not noted."""
    connection.prepare_threshold = 0
    fast = LibpqExecutor(connection)
    answers = fast._answers

    def interrupted(_: LibpqExecutor) -> Any:
        answers()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LibpqExecutor, "_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fast.rows("SELECT %(value)s", {"value": 1})
    fast.command(begin)
    assert fast.rows("SELECT %(value)s", {"value": 1}) == [(1,)]


def test_a_statement_that_an_earlier_user_of_the_session_has_prepared(
    connection: psycopg.Connection[Any],
) -> None:
    """As behind a pooler that does not clean a session before it lends it again."""
    connection.prepare_threshold = 0
    for _ in range(2):
        assert LibpqExecutor(connection).rows("SELECT %(value)s", {"value": 1}) == [(1,)]


def test_a_pooler_that_loses_a_statement(connection: psycopg.Connection[Any]) -> None:
    """The statement has not run: it is sent again, and from then on nothing is prepared."""
    connection.prepare_threshold = 0
    fast = LibpqExecutor(connection)
    assert fast.rows("SELECT %(value)s", {"value": 1}) == [(1,)]
    fast.command("DEALLOCATE ALL")
    assert fast.rows("SELECT %(value)s", {"value": 2}) == [(2,)]
    assert fast.rows("SELECT %(value)s", {"value": 3}) == [(3,)]
    assert connection.execute(_PREPARED, prepare=False).fetchall() == [(0,)]


@pytest.mark.parametrize("lose", ["DEALLOCATE ALL", "PREPARE {} AS SELECT 4"])
def test_a_pooler_that_loses_a_statement_in_a_transaction(
    connection: psycopg.Connection[Any], lose: str
) -> None:
    connection.prepare_threshold = 0
    fast = LibpqExecutor(connection)
    fast.rows("SELECT %(value)s", {"value": 1})
    ((name,),) = connection.execute("SELECT name FROM pg_prepared_statements", prepare=False).fetchall()
    fast.command("DEALLOCATE ALL")
    if "PREPARE" in lose:
        fast = LibpqExecutor(connection)
    fast.command("BEGIN")
    fast.command(lose.format(name))
    with pytest.raises(psycopg.Error) as caught:
        fast.rows("SELECT %(value)s", {"value": 2})
    problem = translate(caught.value)
    assert isinstance(problem, ConfigurationError)
    assert "pooler" in str(problem)
    assert "prepare_threshold=None" in str(problem)
    assert is_conflict(caught.value)
    fast.command("ROLLBACK")
    assert fast.rows("SELECT %(value)s", {"value": 3}) == [(3,)]


def test_cursors_prepare_nothing(connection: psycopg.Connection[Any]) -> None:
    """The names that the driver gives are numbers."""
    connection.prepare_threshold = 0
    for _ in range(3):
        assert CursorExecutor(connection).rows("SELECT %(value)s", {"value": 1}) == [(1,)]
    assert connection.execute(_PREPARED, prepare=False).fetchall() == [(0,)]


def _replaced(original: Any) -> Any:
    """As a tracer does it."""

    @functools.wraps(original)
    def traced(*args: Any, **options: Any) -> Any:
        return original(*args, **options)

    return traced


class TracedCursor(psycopg.Cursor[Any]):
    pass


def test_the_fast_path_is_for_drivers_that_nobody_watches(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert supports(connection)
    connection.cursor_factory = TracedCursor
    assert not supports(connection)
    connection.cursor_factory = psycopg.Cursor
    for owner, name in ((psycopg.Cursor, "execute"), (psycopg.Connection, "cursor"), (psycopg, "connect")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, _replaced(getattr(owner, name)))
            assert not supports(connection)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *args, **options: None)
            assert not supports(connection)
    assert supports(connection)


@pytest.mark.parametrize(
    ("version", "is_tested"),
    [
        ("3.2.9", False),
        ("3.3.0", True),
        ("3.3.12.dev1", True),
        ("3.4.0", False),
        ("4.0", False),
        ("4", False),
    ],
)
def test_the_fast_path_is_for_drivers_it_was_tested_with(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, version: str, is_tested: bool
) -> None:
    monkeypatch.setattr(psycopg, "__version__", version)
    assert supports(connection) is is_tested


@pytest.mark.parametrize(
    ("asked_for", "kind"), [(None, LibpqExecutor), (True, LibpqExecutor), (False, CursorExecutor)]
)
def test_the_fast_path_can_be_switched(
    open_postgres: Callable[..., Storage], asked_for: bool | None, kind: type[PostgresExecutor]
) -> None:
    storage = open_postgres(fast_path=asked_for)
    database: Any = storage._context.backend._database  # type: ignore[attr-defined]
    assert database.read(type) is kind


def test_a_tracer_sees_the_statements(
    open_postgres: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    execute = psycopg.Cursor.execute

    @functools.wraps(execute)
    def traced(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        seen.append(str(query))
        return execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", traced)
    assert open_postgres().nonces.register("nonce")
    assert [query for query in seen if "INSERT INTO" in query and "nonces" in query]


def is_asleep(connection: psycopg.Connection[Any], pid: int) -> bool:
    query = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
    return connection.execute(query, [pid]).fetchall() == [(True,)]
