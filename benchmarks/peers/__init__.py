"""Other libraries, each in its best configuration for throughput. They are imported only when they run."""

from __future__ import annotations

from collections.abc import Mapping

from ..model import Contender
from . import asyncpg, caches, chancy, huey, imports, pgqueuer, procrastinate, sqlite_queues

_Peers = Mapping[str, Contender] | Mapping[str, tuple[Contender, ...]]


def peers_of(row: str) -> tuple[Contender, ...]:
    found: list[Contender] = []
    for module in _MODULES:
        entry = module.get(row, ())
        found += [entry] if isinstance(entry, Contender) else entry
    return tuple(found)


_MODULES: tuple[_Peers, ...] = (
    huey.PEERS,
    pgqueuer.PEERS,
    chancy.PEERS,
    procrastinate.PEERS,
    sqlite_queues.PEERS,
    caches.PEERS,
    asyncpg.PEERS,
    imports.PEERS,
)
