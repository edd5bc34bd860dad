from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ...engine.values import PrunedByAge, PrunedByCap
from .database import Params
from .store import SqlStore

_STAMP = 1
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)

_BEGIN = """
INSERT INTO {t}retention AS stored (id, pruned_at) VALUES (:id, :now)
ON CONFLICT (id) DO UPDATE SET pruned_at = excluded.pruned_at
WHERE stored.pruned_at IS NULL OR stored.pruned_at <= :earlier OR stored.pruned_at >= :later
RETURNING id
"""

_RESET = "UPDATE {t}retention SET pruned_at = NULL WHERE id = :id AND pruned_at = :now"


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    key: str
    time: str
    condition: str = ""

    def delete(self, where: str, order: str) -> str:
        """The condition is repeated outside: a row may have changed while the delete waited for it."""
        where = f"{where} {self.condition}"
        return f"""
DELETE FROM {{t}}{self.name}
WHERE {self.key} {{picked}}
    SELECT {self.key} FROM {{t}}{self.name} WHERE {where} ORDER BY {order} LIMIT {{limit}}
{{end_picked}} AND {where}
"""


_NONCES = Table("nonces", "nonce", "timestamp_ms")
_BY_AGE: dict[PrunedByAge, Table] = {
    "approvals": Table("approvals", "seq", "created_at"),
    "idempotency": Table("idempotency", "seq", "saved_at"),
    "posted": Table("queue_jobs", "id", "posted_at", "AND status = 'posted'"),
    "events": Table("events", "id", "created_at"),
    "sessions": Table("sessions", "user_id", "updated_at"),
}
_BY_CAP: dict[PrunedByCap, Table] = {
    "approvals": _BY_AGE["approvals"],
    "idempotency": _BY_AGE["idempotency"],
}
_NEWEST_BEYOND = {
    kind: f"""
SELECT {table.time}, seq FROM {{t}}{table.name}
ORDER BY {table.time} DESC, seq DESC LIMIT 1 OFFSET :cap
"""
    for kind, table in _BY_CAP.items()
}


class SqlRetentionStore(SqlStore):
    def begin_prune(self, *, now: datetime, interval: timedelta) -> bool:
        params = {
            "id": _STAMP,
            "now": self._bind(now),
            "earlier": self._bind(_shifted(now, -interval)),
            "later": self._bind(_shifted(now, interval)),
        }
        return self._change_one(_BEGIN, params, bool) is not None

    def reset_prune(self, *, now: datetime) -> None:
        self._change(_RESET, {"id": _STAMP, "now": self._bind(now)})

    def delete_older(self, kind: PrunedByAge, cutoff: datetime, *, limit: int) -> int:
        return self._delete_before(_BY_AGE[kind], self._bind(cutoff), limit)

    def delete_nonces(self, cutoff_ms: int, *, limit: int) -> int:
        return self._delete_before(_NONCES, cutoff_ms, limit)

    def newest_beyond(self, kind: PrunedByCap, cap: int) -> tuple[datetime, int] | None:
        return self._read_one(_NEWEST_BEYOND[kind], {"cap": cap}, lambda row: (self._time(row[0]), row[1]))

    def delete_up_to(self, kind: PrunedByCap, edge: tuple[datetime, int], *, limit: int) -> int:
        table = _BY_CAP[kind]
        params = {"edge_at": self._bind(edge[0]), "edge_seq": edge[1]}
        return self._delete(
            table, f"({table.time}, seq) <= (:edge_at, :edge_seq)", f"{table.time}, seq", params, limit
        )

    def _delete_before(self, table: Table, cutoff: object, limit: int) -> int:
        return self._delete(table, f"{table.time} < :cutoff", table.time, {"cutoff": cutoff}, limit)

    def _delete(self, table: Table, where: str, order: str, params: Params, limit: int) -> int:
        """The first `limit` rows of that order."""
        return self._change(table.delete(where, order), params, limit)


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return _EARLIEST if by < timedelta(0) else _LATEST
