"""Runs statements with libpq directly: docs/decisions/0013 says why, and what a cursor costs."""

from __future__ import annotations

import hashlib
import selectors
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import itemgetter
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from ..sql.database import Params, Row
from .executor import NO_PARAMS, PostgresExecutor
from .limits import CANCEL_SECONDS, Limit
from .polling import poll_readable

_TESTED = ((3, 3), (3, 4))
_MOST_STATEMENTS = 400
# Milliseconds. Python handles a signal that another thread received only between two polls.
_POLL_MILLISECONDS = 100
# A global, since looking up a member of the enumeration takes as long as half a statement in libpq.
_BINARY = Format.BINARY
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY)


def supports(connection: psycopg.Connection[Any]) -> bool:
    """Whether this code was tested with the version of the driver, and no tracer has patched it.

    Tracers replace the classes or functions of the driver, or the cursor class of a connection. Their
    wrappers copy the names of the originals, but have `__wrapped__`, or another module.
    """
    version = tuple(map(int, psycopg.__version__.split(".")[:2]))
    return (
        _TESTED[0] <= version < _TESTED[1]
        and type(connection) is psycopg.Connection
        and connection.cursor_factory is psycopg.Cursor
        and _is_the_drivers(psycopg.Cursor.execute, "psycopg.cursor")
        and _is_the_drivers(psycopg.Connection.cursor, "psycopg.connection")
        and _is_the_drivers(psycopg.connect, "psycopg.connection")
    )


def _is_the_drivers(function: Callable[..., Any], module: str) -> bool:
    return function.__module__ == module and not hasattr(function, "__wrapped__")


class _Positional(NamedTuple):
    """A statement in the server's form: `$1` is the first of the values that `pick` returns, and so on."""

    text: bytes
    pick: Callable[[Params], tuple[Any, ...]]
    formats: tuple[PyFormat, ...]


class _Numbers(dict[str, str]):
    """The placeholder for each name: `$1` for the first one that is looked up, and so on."""

    def __missing__(self, name: str) -> str:
        number = self[name] = f"${len(self) + 1}"
        return number


@lru_cache(maxsize=2000)
def _positional(statement: str) -> _Positional:
    numbers = _Numbers()
    text = statement % numbers
    return _Positional(text.encode(), _picker(*numbers), (PyFormat.AUTO,) * len(numbers))


def _picker(*names: str) -> Callable[[Params], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda params: tuple(params[name] for name in names)


class _Known:
    """A statement that ran on this connection, with parameters of certain types.

    `columns` decodes its results; the loaders are looked up for the first result only.
    """

    __slots__ = ("columns", "has_columns", "name", "runs")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.name = b""
        self.runs = 0
        self.columns = Transformer(connection)
        self.has_columns = False

    def decoded(self, result: PGresult) -> list[Row]:
        columns = self.columns
        columns.set_pgresult(result, set_loaders=not self.has_columns)
        self.has_columns = True
        try:
            return columns.load_rows(0, result.ntuples, tuple)
        finally:
            # Free the result, which would otherwise be kept until the next one.
            columns.set_pgresult(None, set_loaders=False)


class LibpqExecutor(PostgresExecutor):
    """Runs statements on a connection of the pool: in autocommit, without pipelines, one thread at a time.

    On another connection it begins no transaction.
    """

    __slots__ = ("_known", "_link", "_parameters", "_readable", "_unsure")

    def __init__(self, connection: psycopg.Connection[Any], limit: Limit | None = None) -> None:
        super().__init__(connection, limit)
        self._link = connection.pgconn
        self._readable = poll_readable(connection.fileno())
        self._parameters = Transformer(connection)
        self._known: dict[tuple[bytes, tuple[int, ...] | None], _Known] = {}
        self._unsure: set[bytes] = set()
        """The names of statements of which it is not known whether they exist."""

    def rows(self, statement: str, params: Params = NO_PARAMS) -> list[Row]:
        result, known = self.run(statement, params)
        return known.decoded(result)

    def row(self, statement: str, params: Params = NO_PARAMS) -> Row | None:
        result, known = self.run(statement, params)
        found = known.decoded(result)
        return found[0] if found else None

    def execute(self, statement: str, params: Params = NO_PARAMS) -> int:
        result, _ = self.run(statement, params)
        return result.command_tuples or 0

    def command(self, text: str) -> str:
        if self.limit.is_cancelled:
            self.limit.refuse()
        self._link.send_query(text.encode())
        return (self._answers()[-1].command_status or b"").decode()

    def values(self, query: str) -> list[bytes | None]:
        """Run a query unprepared and without parameters; return its first row as the server sends it."""
        if self.limit.is_cancelled:
            self.limit.refuse()
        self._link.send_query_params(query.encode(), None, result_format=_BINARY)
        answer = self._answers()[0]
        return [answer.get_value(0, column) for column in range(answer.nfields)]

    def run(self, statement: str, params: Params) -> tuple[PGresult, _Known]:
        if self.limit.is_cancelled:
            self.limit.refuse()
        text, pick, formats = _positional(statement)
        parameters = self._parameters
        values = parameters.dump_sequence(pick(params), formats)
        types = parameters.types
        known = self._known.get((text, types)) or self._new(text, types)
        if known.name or self._is_worth_unsure(known, text, types):
            self._link.send_query_prepared(known.name, values, parameters.formats, _BINARY)
            try:
                return self._answers()[0], known
            except psycopg.errors.InvalidSqlStatementName as error:
                self._prepare_nothing(error)
        self._link.send_query_params(text, values, types, parameters.formats, _BINARY)
        return self._answers()[0], known

    def _new(self, text: bytes, types: tuple[int, ...] | None) -> _Known:
        if len(self._known) >= _MOST_STATEMENTS:
            oldest = self._known.pop(next(iter(self._known)))
            if oldest.name:
                self._unsure.add(oldest.name)
                try:
                    self.command(f"DEALLOCATE {oldest.name.decode()}")
                except psycopg.errors.InvalidSqlStatementName as error:
                    self._prepare_nothing(error)
                self._unsure.discard(oldest.name)
        known = self._known[text, types] = _Known(self.connection)
        return known

    def _is_worth_unsure(self, known: _Known, text: bytes, types: Sequence[int] | None) -> bool:
        threshold = self.connection.prepare_threshold
        if threshold is None or known.runs < threshold:
            known.runs += 1
            return False
        # The name is a hash of the statement. With a counter, a session that a pooler shares could hold
        # another client's statement under that name.
        named = hashlib.blake2b(text + repr(types).encode(), digest_size=12)
        name = b"assistly_" + named.hexdigest().encode()
        if name in self._unsure and self._exists(name):
            known.name = name
            return True
        self._unsure.add(name)
        self._link.send_prepare(name, text, types)
        try:
            self._answers()
        except psycopg.errors.DuplicatePreparedStatement as error:
            self._prepare_nothing(error)
            return False
        known.name = name
        self._unsure.discard(name)
        return True

    def _prepare_nothing(self, error: psycopg.Error) -> None:
        """Call it after an error which shows that a pooler lends the session to other clients.

        The statement has not run, but the error has ended a transaction if one was open: then it is raised.
        """
        self.connection.prepare_threshold = None
        self._known.clear()
        self._unsure.clear()
        if self._link.transaction_status != TransactionStatus.IDLE:
            raise error

    def _exists(self, name: bytes) -> bool:
        """Whether the statement was prepared, but Ctrl-C for example kept that from being noted."""
        query = b"SELECT FROM pg_catalog.pg_prepared_statements WHERE name = $1"
        self._link.send_query_params(query, [name])
        return self._answers()[0].ntuples > 0

    def _answers(self) -> list[PGresult]:
        try:
            answers = self._receive()
        except BaseException:
            self._cancel()
            raise
        for answer in answers:
            if answer.status not in _DONE:
                error = error_from_result(answer)
                self.limit.check(error)
                raise error
        return answers

    def _receive(self) -> list[PGresult]:
        """Receive all results until the server is ready for the next statement, within the limit."""
        link, readable, limit = self._link, self._readable, self.limit
        while link.flush():
            if monotonic() > limit.deadline:
                limit.expire()
            _wait_to_send(link.socket)
            link.consume_input()
        answers: list[PGresult] = []
        while True:
            while link.is_busy():
                if monotonic() > limit.deadline:
                    limit.expire()
                if readable(_POLL_MILLISECONDS):
                    link.consume_input()
            answer = link.get_result()
            if answer is None:
                return answers
            answers.append(answer)

    def _cancel(self) -> None:
        """Cancel the statement after an interrupt (Ctrl-C, for example), so that the server stops it."""
        if self._link.transaction_status == TransactionStatus.ACTIVE:
            # If that fails, the pool closes the connection.
            with suppress(psycopg.Error):
                self.limit.begin(CANCEL_SECONDS, cancels=False)
                if self.limit.cancel():
                    self._receive()
            self.limit.begin()


def _wait_to_send(descriptor: int) -> None:
    """Wait until the socket is writable, or readable: a server may send answers before it reads on."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ | selectors.EVENT_WRITE)
        selector.select(_POLL_MILLISECONDS / 1000)
