"""The same API with await: single calls by 1, 10 and 50 tasks at once.

Calls of `nonces.register` that are under way together may travel in one statement; those of
`sessions.put` travel alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from assistly.storage.aio import AsyncStorage, open_async_storage

from .. import ours
from ..floors import postgres_async
from ..gathering import gathered
from ..model import Contender, Figure, Round, Row, Scale, Surroundings

_ALONE = {1: 0.70, 10: 0.85, 50: 1.0}
_GROUPED = {1: 0.70, 10: 0.85, 50: 5.0}
_SIZES: dict[int, dict[Scale, int]] = {
    1: {"tiny": 20, "quick": 500, "full": 2000},
    10: {"tiny": 20, "quick": 1000, "full": 5000},
    50: {"tiny": 100, "quick": 2000, "full": 10_000},
}
_Call = Callable[[str], Awaitable[bool]]
_SESSION = json.loads(postgres_async.SESSION)


def _registering(storage: AsyncStorage) -> _Call:
    return storage.nonces.register


def _putting(storage: AsyncStorage) -> _Call:
    async def put(user_id: str) -> bool:
        return (await storage.sessions.put(user_id, _SESSION)).version > 0

    return put


@contextmanager
def _assistly(at: Surroundings, callers: int, call: Callable[[AsyncStorage], _Call]) -> Iterator[Round]:
    with at.new_schema() as schema, asyncio.Runner() as runner:
        storage = runner.run(_opened(ours.postgres_settings(at, schema)))
        try:
            yield gathered(runner, call(storage), callers)
        finally:
            runner.run(storage.close())


async def _opened(settings: dict[str, Any]) -> AsyncStorage:
    return await open_async_storage(**settings)


def _row(callers: int, name: str, what: str, goal: float, floor: Any, call: Any) -> Row:
    return Row(
        f"pg-{name}-{callers}",
        f"{what} with await, {callers} caller{'s' if callers > 1 else ''} at once, Postgres",
        (Figure("calls/s", goal),),
        _SIZES[callers],
        (
            Contender("psycopg AsyncConnectionPool", partial(floor, callers=callers), role="floor"),
            Contender("Assistly", partial(_assistly, callers=callers, call=call)),
        ),
    )


ROWS = (
    *(
        _row(callers, "async", "put if absent", goal, postgres_async.nonces, _registering)
        for callers, goal in _GROUPED.items()
    ),
    *(
        _row(callers, "async-alone", "put a session", goal, postgres_async.sessions, _putting)
        for callers, goal in _ALONE.items()
    ),
)
