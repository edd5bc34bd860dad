"""asyncpg under the floor of the await API: the other driver."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ..floors.postgres_put import TABLE, now_ms
from ..gathering import gathered
from ..model import Contender, Round, Surroundings

_INSERT = "INSERT INTO nonces (nonce, timestamp_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING"


@contextmanager
def _registers(at: Surroundings, callers: int) -> Iterator[Round]:
    import asyncpg

    with at.new_database() as url, asyncio.Runner() as runner:

        async def opened() -> asyncpg.Pool:
            return await asyncpg.create_pool(url, min_size=at.pool_size, max_size=at.pool_size)

        pool = runner.run(opened())

        async def register(nonce: str) -> bool:
            return str(await pool.execute(_INSERT, nonce, now_ms())).endswith(" 1")

        try:
            runner.run(pool.execute(TABLE))
            yield gathered(runner, register, callers)
        finally:
            runner.run(pool.close())


PEERS = {
    f"pg-async-{callers}": Contender(
        "asyncpg", partial(_registers, callers=callers), "its own pool", role="peer", requires=("asyncpg",)
    )
    for callers in (1, 10, 50)
}
