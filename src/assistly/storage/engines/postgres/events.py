"""The event log. Its readers miss no event, although ids may become visible out of order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, cast

import psycopg

from ...engine.base import BackendBase
from ...engine.values import JsonText
from ...records import Event
from ..sql.database import Executor, Row
from ..sql.events import EVENT_COLUMNS, SqlEventStore
from .batches import chunks
from .dialect import PostgresDialect, lock_key
from .executor import PostgresExecutor
from .server import PostgresWork

_GATE_TIMEOUT = "50ms"
_SPAN = 10_000


class PostgresEventStatements:
    """The statements on events. An INSERT selects from `gate`, so it takes the lock before it gets ids."""

    def __init__(self, d: PostgresDialect) -> None:
        table = f"{d.t}events"
        gate = """
            WITH gate AS MATERIALIZED (SELECT pg_catalog.pg_advisory_xact_lock_shared(%(gate)s::bigint))
        """
        # With `event_type =` instead, a generic plan might walk the ids of all types.
        of_type = "(event_type, id) > (%(event_type)s, %(id)s) AND event_type <= %(event_type)s"
        self.append_one = f"""
            {gate}
            INSERT INTO {table} (event_type, payload, created_at)
            SELECT %(event_type)s::text, %(payload)s::jsonb, %(created_at)s::timestamptz FROM gate
            RETURNING {EVENT_COLUMNS}
        """
        self.append_many = f"""
            {gate}
            INSERT INTO {table} (event_type, payload, created_at)
            SELECT event_type, payload, created_at
            FROM gate, ROWS FROM (
                pg_catalog.unnest(%(event_types)s::text[]),
                pg_catalog.jsonb_array_elements(%(payloads)s::jsonb),
                pg_catalog.unnest(%(created_ats)s::timestamptz[])
            ) WITH ORDINALITY AS new (event_type, payload, created_at, place)
            ORDER BY place
            RETURNING {EVENT_COLUMNS}
        """
        self.page = f"""
            SELECT {EVENT_COLUMNS} FROM {table} WHERE id > %(id)s AND id <= %(horizon)s ORDER BY id
        """
        self.page_of_type = f"""
            SELECT {EVENT_COLUMNS} FROM {table}
            WHERE {of_type} AND id <= %(horizon)s ORDER BY event_type, id
        """
        self._first_of_type = f"""
            SELECT {EVENT_COLUMNS} FROM {table} WHERE {of_type} ORDER BY event_type, id
        """
        self._spanned = f"""
            SELECT FROM {table}
            WHERE id > %(id)s AND id <= (SELECT pg_catalog.max(id) FROM page) LIMIT {_SPAN}
        """
        self.try_gate = """
            SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_try_advisory_xact_lock(%(gate)s::bigint)
        """
        self.wait_for_gate = "SELECT pg_catalog.pg_advisory_xact_lock(%(gate)s::bigint)"
        self.newest = f"SELECT coalesce(pg_catalog.max(id), 0) FROM {table}"
        self.prefix = f"""
            SELECT coalesce(pg_catalog.max(id), %(id)s) FROM (
                SELECT id, pg_catalog.row_number() OVER (ORDER BY id) AS place
                FROM {table} WHERE id > %(id)s ORDER BY id LIMIT {_SPAN}
            ) AS following
            WHERE id = %(id)s + place
        """

    def counted_page_of_type(self, limit: int) -> str:
        """A page, and how many events of any type its range of ids holds, in one snapshot."""
        return f"""
            WITH page AS MATERIALIZED ({self._first_of_type} LIMIT {limit:d})
            SELECT {EVENT_COLUMNS}, (SELECT pg_catalog.count(*) FROM ({self._spanned}) AS spanned)
            FROM page ORDER BY id
        """


_ENDLESS = 2**63 - 1


class PostgresEventStore(SqlEventStore):
    """An `EventStore`.

    A row gets its id before it is committed, so a lower id may appear after a higher one. So each append
    holds a shared advisory lock, the gate, from before it gets ids until its commit. A reader that finds
    gaps in the ids takes the lock exclusively: at that time no append is between the two, and ids that are
    missing below the newest one will never appear. If it cannot get the lock within 50 ms, it returns the
    events before the first gap.
    """

    def __init__(self, backend: BackendBase, database: PostgresWork) -> None:
        super().__init__(backend, database)
        self._own = database.dialect.statements(PostgresEventStatements)
        self._postgres = database
        self._gate = lock_key("events", database.dialect.schema)

    def append(self, events: Sequence[tuple[str, JsonText, datetime]]) -> Sequence[Event]:
        steps = [
            (len(chunk), *(self._append_one(*chunk[0]) if len(chunk) == 1 else self._append_many(chunk)))
            for chunk in chunks(events, lambda event: len(event[1]))
        ]

        def work(executor: PostgresExecutor) -> list[Row]:
            return [
                row for count, statement, params in steps for row in executor.batch(count, statement, params)
            ]

        rows = self._postgres.autocommit(work) if len(steps) < 2 else self._postgres.in_transaction(work)
        return [self._event(row) for row in sorted(rows, key=itemgetter(0))]

    def read_after(self, id: int, *, event_type: str | None, limit: int) -> Sequence[Event]:
        rows = self._whole_page(id, event_type, limit)
        if rows is None:
            horizon = self._horizon(id)
            rows = self._page(id, event_type, limit, horizon) if horizon > id else []
        return [self._event(row) for row in rows]

    def _append_one(
        self, event_type: str, payload: JsonText, created_at: datetime
    ) -> tuple[str, dict[str, Any]]:
        params = {"event_type": event_type, "payload": payload, "created_at": created_at, "gate": self._gate}
        return self._own.append_one, params

    def _append_many(self, events: Sequence[tuple[str, JsonText, datetime]]) -> tuple[str, dict[str, Any]]:
        params = {
            "event_types": [event_type for event_type, _, _ in events],
            "payloads": f"[{','.join(payload for _, payload, _ in events)}]",
            "created_ats": [created_at for _, _, created_at in events],
            "gate": self._gate,
        }
        return self._own.append_many, params

    def _whole_page(self, id: int, event_type: str | None, limit: int) -> Sequence[Row] | None:
        """The page if no id is missing after `id` up to its last one, else None."""
        if event_type is None:
            rows = self._page(id, None, limit, _ENDLESS)
            return rows if not rows or rows[-1][0] == id + len(rows) else None
        statement = self._own.counted_page_of_type(limit)
        counted = self._database.select(statement, {"id": id, "event_type": event_type})
        if counted and counted[-1][0] != id + counted[-1][-1]:
            return None
        return [row[:-1] for row in counted]

    def _page(self, id: int, event_type: str | None, limit: int, horizon: int) -> Sequence[Row]:
        page = self._own.page if event_type is None else self._own.page_of_type
        params: dict[str, Any] = {"id": id, "horizon": horizon}
        if event_type is not None:
            params["event_type"] = event_type
        return self._database.select(f"{page} LIMIT {limit:d}", params)

    def _horizon(self, id: int) -> int:
        """An id up to which no further event can appear."""
        if self._postgres.sees_later_commits():
            newest = self._postgres.rolled_back(self._newest_settled)
            if newest is not None:
                return newest
        (prefix,) = self._database.select(self._own.prefix, {"id": id})[0]
        return cast("int", prefix)

    def _newest_settled(self, connection: Executor) -> int | None:
        if not self._take_gate(connection):
            return None
        (newest,) = connection.rows(self._own.newest)[0]
        return cast("int", newest)

    def _take_gate(self, connection: Executor) -> bool:
        params = {"gate": self._gate}
        (on_standby, taken) = connection.rows(self._own.try_gate, params)[0]
        # A standby does not see the locks on its primary.
        if on_standby or taken:
            return cast("bool", taken and not on_standby)
        connection.execute(f"SET LOCAL lock_timeout = '{_GATE_TIMEOUT}'")
        try:
            connection.execute(self._own.wait_for_gate, params)
        except psycopg.errors.LockNotAvailable:
            return False
        return True
