"""Writes rows that come from another storage, and reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...engine.transfer import Row, RowKind, canonical_text
from ..sql.transfer import TABLES, SqlTransfer, column_of
from .jobs import NEWEST_ID

_ATTENTION_AT = """CASE
    WHEN ?{status} = 'processing' THEN ?{lease_until}
    WHEN ?{status} IN ('scheduled', 'retrying') THEN ?{scheduled_at} + ?{max_lateness}
END"""
_NEWEST_JOB = f"SELECT {NEWEST_ID}"
_RAISE_NEWEST_JOB = """
    INSERT INTO assistly_queue_newest (one, deleted_id) VALUES (1, :number)
    ON CONFLICT (one) DO UPDATE SET deleted_id = max(deleted_id, excluded.deleted_id)
"""
_NEWEST = "SELECT seq FROM sqlite_sequence WHERE name = :name"
_RAISE_NEWEST = "UPDATE sqlite_sequence SET seq = max(seq, :number) WHERE name = :name"
_FIRST_NEWEST = "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :number)"


class SqliteTransfer(SqlTransfer):
    """Its columns hold what rows hold, but for a few."""

    def _fixes_of(self, kind: RowKind) -> list[tuple[int, Callable[[Any], Any]]]:
        fixes: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("idempotency", "completed"): bool,
            # SQLite appends to it, in the order of its own.
            ("jobs", "attempts"): canonical_text,
        }
        return [
            (place, fixes[kind.name, column.name])
            for place, column in enumerate(kind.columns)
            if (kind.name, column.name) in fixes
        ]

    def _insert(self, kind: RowKind, rows: Sequence[Row]) -> None:
        columns = [column_of(kind, column) for column in kind.columns]
        values = [f"?{place}" for place in range(1, len(columns) + 1)]
        if kind.name == "jobs":
            places = {column.name: place for place, column in enumerate(kind.columns, start=1)}
            columns.append("attention_at")
            values.append(_ATTENTION_AT.format_map(places))
        statement = f"""
            INSERT INTO assistly_{TABLES[kind.name]} ({", ".join(columns)}) VALUES ({", ".join(values)})
        """
        self._sqlite.autocommit(lambda connection: connection.execute_many(statement, rows))

    def _newest(self, kind: str) -> int:
        if kind == "jobs":
            rows = self._database.select(_NEWEST_JOB, {})
        else:
            rows = self._database.select(_NEWEST, {"name": f"assistly_{TABLES[kind]}"})
        return rows[0][0] if rows else 0

    def _raise_newest(self, kind: str, number: int) -> None:
        if kind == "jobs":
            self._database.execute(_RAISE_NEWEST_JOB, {"number": number})
            return
        params = {"name": f"assistly_{TABLES[kind]}", "number": number}
        if not self._database.execute(_RAISE_NEWEST, params):
            self._database.execute(_FIRST_NEWEST, params)

    @property
    def _sqlite(self) -> Any:
        return self._database
