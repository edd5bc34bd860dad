"""What the SQL stores have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from .database import Database, Executor, Params, Row

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


class SqlStore:
    """`_time` and `_json` decode a column; `_bind` encodes a time."""

    def __init__(self, database: Database) -> None:
        dialect = database.dialect
        codec = dialect.codec
        self._database = database
        self._render = dialect.render
        self._bind = codec.bind_time
        self._bind_list = codec.bind_list
        self._json = codec.json
        self._time: Callable[[Any], Any] = codec.time

    def _read_one(self, template: str, params: Params, decode: Callable[[Row], T]) -> T | None:
        statement = self._render(template)
        row = self._database.read(lambda connection: connection.row(statement, params))
        return None if row is None else decode(row)

    def _read_all(
        self, template: str, params: Params, decode: Callable[[Row], T], limit: int | None = None
    ) -> list[T]:
        statement = self._render(template, limit)
        rows = self._database.read(lambda connection: connection.rows(statement, params))
        return [decode(row) for row in rows]

    def _change_one(self, template: str, params: Params, decode: Callable[[Row], T]) -> T | None:
        """One statement that returns the row that it wrote, if it wrote one."""
        statement = self._render(template)
        row = self._database.autocommit(lambda connection: connection.row(statement, params))
        return None if row is None else decode(row)

    def _write_one(self, template: str, params: Params, decode: Callable[[Row], T]) -> T:
        """One statement that writes a row in any case, and returns it."""
        statement = self._render(template)
        (row,) = self._database.autocommit(lambda connection: connection.rows(statement, params))
        return decode(row)

    def _each(self, template: str, batch: Sequence[Params]) -> list[Row | None]:
        """One statement for each of the batch, all or nothing; the rows that they returned."""
        if not batch:
            return []
        statement = self._render(template)

        def work(connection: Executor) -> list[Row | None]:
            return [connection.row(statement, params) for params in batch]

        return self._database.autocommit(work) if len(batch) == 1 else self._database.in_transaction(work)

    def _change(self, template: str, params: Params, limit: int | None = None) -> int:
        """One statement; how many rows it changed."""
        return self._database.execute(self._render(template, limit), params)
