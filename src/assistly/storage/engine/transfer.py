"""The rows in which a whole storage moves from one engine to another, the same for every engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

from ..records import Job
from ..validation import recoded

Row = tuple[Any, ...]
"""The values of the columns of a `RowKind`."""

Type = Literal["int", "bool", "text", "json", "time", "duration"]
"""How a value is written in a row: a time is in microseconds since 1970, a duration in microseconds, and JSON
is its canonical text. The others are what they are in Python."""

_LONGEST_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `is_optional`: whether None is a value."""

    name: str
    type: Type
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class RowKind:
    """A kind of rows. The first `key_columns` columns are the key, which orders the rows.

    `unique`: another column of which no two rows have the same value, but None.
    """

    name: str
    columns: tuple[Column, ...]
    key_columns: int = 1
    unique: str | None = None

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the columns of the key."""
        return tuple(column.name for column in self.columns[: self.key_columns])

    def key(self, row: Sequence[Any]) -> Row:
        """The key of a row."""
        return tuple(row[: self.key_columns])

    def place(self, name: str) -> int:
        """The index of a column."""
        return next(place for place, column in enumerate(self.columns) if column.name == name)


def _columns(text: str) -> tuple[Column, ...]:
    """Read columns from words such as `id:int` and `value:json?`, of which the latter is optional."""
    found: list[Column] = []
    for word in text.split():
        name, _, type = word.partition(":")
        kind: Any = type.removesuffix("?")
        found.append(Column(name, kind, type.endswith("?")))
    return tuple(found)


_JOBS = _columns(
    "id:int status:text platform:text content:text metadata:json scheduled_at:time created_at:time "
    "updated_at:time retries:int max_retries:int next_retry_at:time? due_at:time idempotency_key:text? "
    "remote_id:text? posted_at:time? last_error:text? dead_letter_at:time? dead_letter_reason:text? "
    "replayed_at:time? claim:int worker_id:text? lease_until:time? publish_started_at:time? "
    "max_lateness:duration? attempts:json checkpoint:json?"
)
assert [column.name for column in _JOBS] == [field.name for field in fields(Job)]  # noqa: S101

MARKS = "marks"
"""The kind of rows that hold the highest number that was ever given out, by kind, and the time of the last
prune, in microseconds since 1970 (None: never)."""

NUMBERED = ("approvals", "events", "idempotency", "jobs")
"""The marks that are numbers given out."""

LAST_PRUNE = "pruned_at"
"""The mark that is the time of the last prune."""

LATENCY = "requests"
"""The key of the only row of the kind `latency`."""

ROW_KINDS: dict[str, RowKind] = {
    kind.name: kind
    for kind in (
        RowKind(
            "documents",
            _columns("collection:text key:text data:json version:int updated_at:time"),
            key_columns=2,
        ),
        RowKind("sessions", _columns("user_id:text data:json version:int updated_at:time")),
        RowKind(
            "approvals",
            _columns("id:text status:text payload:json created_at:time decided_at:time? sequence:int"),
        ),
        RowKind(
            "idempotency",
            _columns(
                "key:text completed:bool value:json? saved_at:time fingerprint:text? token:int? "
                "lease_until:time? sequence:int"
            ),
        ),
        RowKind("nonces", _columns("timestamp_ms:int nonce:text"), key_columns=2, unique="nonce"),
        RowKind("counters", _columns("name:text value:int")),
        RowKind("latency", _columns("name:text count:int total_ns:int max_ns:int")),
        RowKind("locks", _columns("name:text owner_id:text? fence:int acquired_at:time expires_at:time")),
        RowKind("snapshots", _columns("kind:text payload:json updated_at:time")),
        RowKind("events", _columns("id:int event_type:text payload:json created_at:time")),
        RowKind("jobs", _JOBS, unique="idempotency_key"),
        RowKind(MARKS, _columns("name:text value:int?")),
    )
}
"""All kinds of rows, in the order in which they move."""


def canonical_text(text: str) -> str:
    """The canonical text of stored JSON."""
    if text in ("{}", "[]"):
        return text
    return _kept(text) if len(text) <= _LONGEST_KEPT else recoded(text)


_kept = lru_cache(maxsize=1024)(recoded)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def row_line(row: Row) -> bytes:
    """A row as one line of JSON, with its end."""
    return f"{_encode(row)}\n".encode()
