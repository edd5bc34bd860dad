"""Deletes the old ends of the indexes by time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any, NamedTuple

from ...engine.values import PrunedByAge, PrunedByCap
from .keyed import LATEST, NonceTable
from .scope import Scope
from .tables import Key, Ordered, Table


class Timed(NamedTuple):
    """A table, and its index whose keys begin with the time that retention goes by."""

    table: Table[Any, Any]
    by_time: Ordered[Any]


class MemoryRetentionStore:
    def __init__(
        self,
        scope: Scope,
        stamps: Table[None, datetime],
        nonces: NonceTable,
        timed: dict[PrunedByAge, Timed],
    ) -> None:
        self._scope = scope
        self._stamps = stamps
        self._nonces = nonces
        self._timed = timed

    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        with self._scope:
            stamp = self._stamps.rows.get(None)
            if stamp is not None and abs(now - stamp) < interval:
                return False
            self._stamps.put(None, now)
            return True

    def reset_prune(self, *, now: datetime) -> None:
        with self._scope:
            if self._stamps.rows.get(None) == now:
                self._stamps.delete(None)

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        with self._scope:
            table, by_time = self._timed[kind]
            return _delete(table, takewhile(lambda key: key[0] < cutoff, by_time.ascending()), limit)

    def delete_nonces(self, cutoff_ms: int, *, limit: int) -> int:
        with self._scope:
            keys = self._nonces.stored_by_time()
            return _delete(self._nonces, takewhile(lambda key: key[0] < cutoff_ms, keys), limit)

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        with self._scope:
            key = next(islice(self._timed[kind].by_time.descending(LATEST), cap, None), None)
            return None if key is None else (key[0], key[1])

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        with self._scope:
            table, by_time = self._timed[kind]
            return _delete(table, takewhile(lambda key: key[:2] <= edge, by_time.ascending()), limit)


def _delete(table: Table[Any, Any], keys: Iterable[Key], limit: int) -> int:
    batch = [*islice(keys, limit)]
    for key in batch:
        table.delete(key[-1])
    return len(batch)
