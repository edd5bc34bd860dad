"""The base class of the SQL stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from ...engine.base import BackendBase, StoreBase
from .database import Database, Params, Row

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The inverse of `to_microseconds`."""
    return _EPOCH + timedelta(microseconds=value)


def where(conditions: Sequence[str]) -> str:
    """The WHERE clause for all these conditions; empty for none."""
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


class SqlStore(StoreBase[BackendBase]):
    """A store over a `Database`. `_bind` encodes a time; `_time` and `_json` decode a column."""

    def __init__(self, backend: BackendBase, database: Database) -> None:
        super().__init__(backend)
        self._database = database
        self._dialect = dialect = database.dialect
        self._bind = dialect.bind_time
        self._time = dialect.time
        self._json = dialect.json

    def _optional_time(self, value: Any) -> datetime | None:
        return None if value is None else self._time(value)

    def _select_one(self, statement: str, params: Params, decode: Callable[[Row], T]) -> T | None:
        rows = self._database.select(statement, params)
        return decode(rows[0]) if rows else None

    def _select(self, statement: str, params: Params, decode: Callable[[Row], T]) -> list[T]:
        return [decode(row) for row in self._database.select(statement, params)]

    def _write_one(self, statement: str, params: Params, decode: Callable[[Row], T]) -> T | None:
        """Run a statement that returns the row that it wrote; None if it wrote none."""
        rows = self._database.returning(statement, params)
        return decode(rows[0]) if rows else None
