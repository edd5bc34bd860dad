"""asyncpg beside the floor of the await API: another raw driver, so that it is no peer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ..floors.migrations import schema_script
from ..model import Contender, Environment, Measure
from ..tasks import concurrent_calls
from ..workload import now_ms

_INSERT = "INSERT INTO assistly_nonces (nonce, timestamp_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING"


@contextmanager
def _registers(environment: Environment, callers: int) -> Iterator[Measure]:
    import asyncpg

    with environment.new_database() as url, asyncio.Runner() as runner:

        async def opened() -> asyncpg.Pool:
            return await asyncpg.create_pool(
                url, min_size=environment.pool_size, max_size=environment.pool_size
            )

        pool = runner.run(opened())

        async def register(nonce: str) -> bool:
            return str(await pool.execute(_INSERT, nonce, now_ms())).endswith(" 1")

        try:
            runner.run(pool.execute(schema_script("postgres")))
            yield concurrent_calls(runner, register, callers)
        finally:
            runner.run(pool.close())


PEERS = {
    f"await-nonce-{callers}": Contender(
        "asyncpg",
        partial(_registers, callers=callers),
        "its own pool",
        role="reference",
        requires=("asyncpg",),
    )
    for callers in (1, 10, 50)
}
