"""What a cursor would see to: long statements, interruptions, errors, and not too many prepared ones."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from assistly.storage.engines.postgres import wire
from assistly.storage.engines.postgres.adapters import adapt
from assistly.storage.engines.postgres.wire import Wire
from waiting import until

_PREPARED = "SELECT count(*) FROM pg_prepared_statements"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True, prepare_threshold=2) as connection:
        adapt(connection)
        yield connection


@pytest.fixture
def line(connection: psycopg.Connection[Any]) -> Wire:
    return Wire(connection)


def test_parameters_are_found_by_their_names(line: Wire) -> None:
    statement = "SELECT %(second)s::text, %(first)s::text, %(second)s::text || '%%', 5 %% 3"
    row = ("b", "a", "b%", 2)
    assert line.rows(statement, {"first": "a", "second": "b", "unused": 0}) == [row]


@pytest.mark.parametrize("times", [1, 5])
def test_values_come_back_as_they_went(line: Wire, times: int) -> None:
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
        assert line.rows(statement, values) == [tuple(values.values())]


def test_a_value_of_another_type_is_another_statement(line: Wire) -> None:
    for value in (None, "a", None, "b", datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2))), "c") * 3:
        ((found,),) = line.rows("SELECT %(value)s", {"value": value})
        assert found == value


def test_a_statement_is_prepared_when_it_has_run_often_enough(line: Wire) -> None:
    prepared = []
    for _ in range(4):
        line.rows("SELECT %(number)s", {"number": 1})
        prepared.append(int(line.connection.execute(_PREPARED, prepare=False).fetchall()[0][0]))
    assert prepared == [0, 0, 1, 1]


def test_nothing_is_prepared_where_a_pooler_would_lose_it(line: Wire) -> None:
    line.connection.prepare_threshold = None
    for _ in range(4):
        assert line.rows("SELECT %(number)s", {"number": 1}) == [(1,)]
    assert line.connection.execute(_PREPARED).fetchall() == [(0,)]


def test_the_oldest_of_too_many_prepared_statements_is_given_up(
    line: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_MOST_STATEMENTS", 3)
    for number in (1, 2, 3, 4, 1):
        for _ in range(4):
            assert line.rows(f"SELECT {number}", {}) == [(number,)]
    assert line.connection.execute(_PREPARED).fetchall() == [(3,)]


def test_counts_of_changed_rows(line: Wire) -> None:
    line.command("CREATE TEMPORARY TABLE numbers AS SELECT generate_series(1, 5) AS number")
    assert line.execute("DELETE FROM numbers WHERE number > %(least)s", {"least": 3}) == 2
    assert line.execute("DELETE FROM numbers WHERE number > %(least)s", {"least": 3}) == 0
    assert line.command("BEGIN; ROLLBACK") == "ROLLBACK"


def test_the_link_is_as_good_as_before_after_an_error(line: Wire) -> None:
    for _ in range(4):
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            line.rows("SELECT 1 / %(number)s", {"number": 0})
        assert caught.value.sqlstate == "22012"
        assert line.rows("SELECT 1 / %(number)s", {"number": 1}) == [(1,)]
    with pytest.raises(psycopg.errors.SyntaxError):
        line.command("SELEC")
    with pytest.raises(psycopg.errors.UndefinedTable):
        line.command("SELECT 1; SELECT * FROM nowhere")
    assert line.command("SELECT 1") == "SELECT 1"


def test_statements_and_answers_of_many_megabytes(line: Wire) -> None:
    text = "ä" * 8 * 2**20
    assert line.rows("SELECT %(text)s || 'b', generate_series(1, 2)", {"text": text}) == [
        (text + "b", 1),
        (text + "b", 2),
    ]


def test_a_server_that_says_much_while_it_is_told_much(line: Wire) -> None:
    """Notices fill the way back, while the statement is not through yet."""
    noisy = "DO $$ BEGIN FOR i IN 1..2000 LOOP RAISE NOTICE '%', repeat('n', 2000); END LOOP; END $$;"
    assert line.command(noisy + f" SELECT length('{'x' * 2**22}');") == "SELECT 1"


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Also where the tests were started to ignore SIGINT, as with `nohup … &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_statement_is_cancelled(line: Wire, database_url: str) -> None:
    """As by Ctrl-C: nobody waits for it any more, so it must not happen later."""
    line.command("CREATE TEMPORARY TABLE slow (done boolean)")
    pid = line.connection.info.backend_pid

    def interrupt() -> None:
        with psycopg.connect(database_url, autocommit=True) as other:
            until(lambda: is_asleep(other, pid))
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        line.rows("INSERT INTO slow SELECT pg_sleep(600) IS NULL", {})
    thread.join()
    assert line.rows("SELECT count(*) FROM slow", {}) == [(0,)]


def test_a_link_that_broke_says_so(line: Wire, database_url: str) -> None:
    pid = line.connection.info.backend_pid
    assert not line.readable(0)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    assert line.readable(0)
    with pytest.raises(psycopg.OperationalError):
        line.rows("SELECT 1", {})
    assert line.connection.closed


def is_asleep(connection: psycopg.Connection[Any], pid: int) -> bool:
    query = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
    return connection.execute(query, [pid]).fetchall() == [(True,)]
