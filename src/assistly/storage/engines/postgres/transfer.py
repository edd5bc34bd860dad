"""Writes rows that come from another storage with COPY, and reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, cast

from ...engine.transfer import Row, RowKind, canonical_text
from ...errors import ConfigurationError
from ..sql.transfer import NUMBER_COLUMNS, TABLES, SqlTransfer, column_of
from .adapters import EPOCH_MICROSECONDS
from .executor import PostgresExecutor
from .server import PostgresWork

_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_BLOCK = 500

# In the binary format of COPY each field is preceded by its size.
_int8 = Struct("!iq").pack
_int4 = Struct("!ii").pack
_size = Struct("!i").pack
_count = Struct("!h").pack
_TRUE = b"\x00\x00\x00\x01\x01"
_FALSE = b"\x00\x00\x00\x01\x00"


def _pack_int(value: int) -> bytes:
    return _int8(8, value)


def _pack_small(value: int) -> bytes:
    return _int4(4, value)


def _pack_time(value: int) -> bytes:
    return _int8(8, value - EPOCH_MICROSECONDS)


def _pack_text(value: str) -> bytes:
    encoded = value.encode()
    return _size(len(encoded)) + encoded


def _pack_json(value: str) -> bytes:
    encoded = value.encode()
    return _size(1 + len(encoded)) + b"\x01" + encoded


def _pack_bool(value: bool) -> bytes:
    return _TRUE if value else _FALSE


_PACK: dict[str, Callable[[Any], bytes]] = {
    "int": _pack_int,
    "duration": _pack_int,
    "time": _pack_time,
    "text": _pack_text,
    "json": _pack_json,
    "bool": _pack_bool,
}
_SMALL = {("jobs", "retries")}
"""Columns of four bytes."""


class PostgresTransfer(SqlTransfer):
    """The server stores JSON in an order of its own, so it is made canonical again."""

    def _fixes_of(self, kind: RowKind) -> list[tuple[int, Callable[[Any], Any]]]:
        return [(place, canonical_text) for place, column in enumerate(kind.columns) if column.type == "json"]

    def _insert(self, kind: RowKind, rows: Sequence[Row]) -> None:
        columns = [column_of(kind, column) for column in kind.columns]
        packs = [
            _pack_small if (kind.name, column.name) in _SMALL else _PACK[column.type]
            for column in kind.columns
        ]
        if kind.name == "jobs":
            columns.append("attention_at")
            packs.append(_pack_time)
            places = [kind.place(name) for name in ("status", "lease_until", "scheduled_at", "max_lateness")]
            rows = [(*row, _attention_at(*(row[place] for place in places))) for row in rows]
            self._postgres.notify_of_jobs()
        statement = f"""
            COPY {self._d.t}{TABLES[kind.name]} ({", ".join(columns)}) FROM STDIN (FORMAT BINARY)
        """

        def work(executor: PostgresExecutor) -> None:
            with executor.copying(statement) as send:
                send(_BEGIN)
                for start in range(0, len(rows), _BLOCK):
                    executor.limit.allow(_BLOCK)
                    send(_packed(rows[start : start + _BLOCK], packs))
                executor.limit.allow(len(rows))
                send(_END)

        self._postgres.autocommit(work)

    def _newest(self, kind: str) -> int:
        column, table = NUMBER_COLUMNS[kind], f"{self._d.t}{TABLES[kind]}"
        statement = f"""
            SELECT GREATEST(
                coalesce(pg_catalog.pg_sequence_last_value(
                    pg_catalog.pg_get_serial_sequence(%(table)s, '{column}')::regclass
                ), 0),
                coalesce((SELECT pg_catalog.max({column}) FROM {table}), 0)
            ), pg_catalog.has_sequence_privilege(
                pg_catalog.pg_get_serial_sequence(%(table)s, '{column}'), 'SELECT, USAGE'
            )
        """
        ((newest, is_allowed),) = self._database.select(statement, {"table": self._table(kind)})
        if is_allowed is None:
            raise ConfigurationError(
                f"no sequence is owned by {table}.{column}, so the assigned numbers are not known: run "
                "`assistly doctor`"
            )
        if not is_allowed:
            # The server would answer that no number was given out yet.
            schema = self._postgres.dialect.quoted_schema
            raise ConfigurationError(
                "the role may not read the assigned numbers: "
                f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema}"
            )
        return cast("int", newest)

    def _raise_newest(self, kind: str, number: int) -> None:
        """The server gives out numbers outside of transactions: a rollback does not take this back."""
        column = NUMBER_COLUMNS[kind]
        statement = f"""
            SELECT pg_catalog.setval(
                pg_catalog.pg_get_serial_sequence(%(table)s, '{column}')::regclass,
                GREATEST(%(number)s::bigint, coalesce(pg_catalog.pg_sequence_last_value(
                    pg_catalog.pg_get_serial_sequence(%(table)s, '{column}')::regclass
                ), 1))
            )
        """
        self._database.returning(statement, {"table": self._table(kind), "number": number})

    def _table(self, kind: str) -> str:
        return f"{self._postgres.dialect.quoted_schema}.assistly_{TABLES[kind]}"

    @property
    def _postgres(self) -> PostgresWork:
        return cast("PostgresWork", self._database)


def _attention_at(status: str, lease_until: Any, scheduled_at: int, max_lateness: Any) -> int | None:
    """As `transitions.check_at`."""
    if status == "processing":
        return cast("int | None", lease_until)
    if status in ("scheduled", "retrying") and max_lateness is not None:
        return scheduled_at + cast("int", max_lateness)
    return None


def _packed(rows: Sequence[Row], packs: Sequence[Callable[[Any], bytes]]) -> bytes:
    width = _count(len(packs))
    parts: list[bytes] = []
    for row in rows:
        parts.append(width)
        parts += [_NULL if value is None else pack(value) for value, pack in zip(row, packs, strict=True)]
    return b"".join(parts)
