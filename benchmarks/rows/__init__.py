"""The rows of the table, in its order."""

from __future__ import annotations

from dataclasses import replace

from ..model import Row
from ..peers import peers_of
from . import imports, postgres_async, postgres_queue, prune, put, sqlite_queue

_OURS: tuple[Row, ...] = (
    *postgres_queue.ROWS,
    *put.ROWS,
    *sqlite_queue.ROWS,
    *prune.ROWS,
    *postgres_async.ROWS,
    *imports.ROWS,
)

ROWS = tuple(replace(row, contenders=(*row.contenders, *peers_of(row.key))) for row in _OURS)
