"""What the SQL stores have in common."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from .database import Database

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
