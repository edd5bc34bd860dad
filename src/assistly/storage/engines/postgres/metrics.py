"""Metrics without a hot row, and without reading before writing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ..sql.dialect import Dialect
from ..sql.metrics import FIRST_ROW, SqlMetricStore

_ROWS = 32


class PostgresMetricStatements:
    """The statements on metrics. Sums are numeric, since they may exceed bigint."""

    def __init__(self, d: Dialect) -> None:
        upsert = f"INSERT INTO {d.t}metrics AS stored (id, payload, updated_at)"
        counters = "coalesce(stored.payload -> 'counters', '{}')"
        latency = "stored.payload -> 'latency'"
        self.increment = f"""
            {upsert}
            VALUES (
                %(id)s,
                pg_catalog.jsonb_build_object(
                    'counters', pg_catalog.jsonb_build_object(%(name)s::text, %(by)s::numeric)
                ),
                pg_catalog.clock_timestamp()
            )
            ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
                pg_catalog.jsonb_build_object('counters', {counters} || pg_catalog.jsonb_build_object(
                    %(name)s::text,
                    coalesce((stored.payload -> 'counters' ->> %(name)s::text)::numeric, 0) + %(by)s::numeric
                ))
        """
        self.increment_many = f"""
            {upsert}
            SELECT
                %(id)s,
                pg_catalog.jsonb_build_object('counters', pg_catalog.jsonb_object_agg(name, by)),
                pg_catalog.clock_timestamp()
            FROM unnest(%(names)s::text[], %(bys)s::numeric[]) AS given (name, by)
            ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
                pg_catalog.jsonb_build_object('counters', {counters} || (
                    SELECT pg_catalog.jsonb_object_agg(
                        key, coalesce((stored.payload -> 'counters' ->> key)::numeric, 0) + value::numeric
                    ) FROM pg_catalog.jsonb_each_text(excluded.payload -> 'counters')
                ))
        """
        self.observe = f"""
            {upsert}
            VALUES (
                %(id)s,
                pg_catalog.jsonb_build_object('latency', pg_catalog.jsonb_build_object(
                    'count', %(count)s::numeric, 'total_ns', %(total)s::numeric,
                    'max_ns', %(longest)s::numeric
                )),
                pg_catalog.clock_timestamp()
            )
            ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, payload = stored.payload ||
                pg_catalog.jsonb_build_object('latency', pg_catalog.jsonb_build_object(
                    'count', coalesce(({latency} ->> 'count')::numeric, 0) + %(count)s::numeric,
                    'total_ns', coalesce(({latency} ->> 'total_ns')::numeric, 0) + %(total)s::numeric,
                    'max_ns', greatest(coalesce(({latency} ->> 'max_ns')::numeric, 0), %(longest)s::numeric)
                ))
        """


class PostgresMetricStore(SqlMetricStore):
    """A `MetricStore`. Threads are spread over 32 rows, so that concurrent writers rarely wait for a lock."""

    def increment(self, name: str, by: int) -> None:
        self._upsert(self._own.increment, {"name": name, "by": by})

    def increment_many(self, by_name: Mapping[str, int]) -> None:
        if by_name:
            self._upsert(self._own.increment_many, {"names": [*by_name], "bys": [*by_name.values()]})

    def observe_latencies(self, count: int, total: int, longest: int) -> None:
        self._upsert(self._own.observe, {"count": count, "total": total, "longest": longest})

    @property
    def _own(self) -> PostgresMetricStatements:
        return self._dialect.statements(PostgresMetricStatements)

    def _upsert(self, statement: str, values: dict[str, Any]) -> None:
        params = {"id": FIRST_ROW + threading.get_native_id() % _ROWS, **values}
        self._database.execute(statement, params)
