"""diskcache, limits and py-key-value: what one would take to accept a key once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..model import Contender, Environment, Measure, Numbers, throughput, times
from ..tasks import concurrent_calls
from ..workload import nonce

_DAY = 86400
_GET_THEN_PUT = "get, then put: it has no put-if-absent, so that two may get the key"


@contextmanager
def _diskcache(environment: Environment) -> Iterator[Measure]:
    from diskcache import Cache

    with Cache(str(environment.new_path()), eviction_policy="none") as cache:
        yield throughput(times(lambda number: cache.add(nonce(number), True, expire=_DAY)), Numbers())


@contextmanager
def _limits(_: Environment) -> Iterator[Measure]:
    from limits import RateLimitItemPerDay
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    limiter, once = FixedWindowRateLimiter(MemoryStorage()), RateLimitItemPerDay(1)
    yield throughput(times(lambda number: limiter.hit(once, nonce(number))), Numbers())


def _get_then_put(store: Any) -> Callable[[str], Awaitable[bool]]:
    async def register(name: str) -> bool:
        if await store.get(name) is not None:
            return False
        await store.put(name, {}, ttl=_DAY)
        return True

    return register


@contextmanager
def _key_value(make: Callable[[], Any], callers: int = 1) -> Iterator[Measure]:
    async def made() -> Any:
        return make()

    async def close(store: Any) -> None:
        if hasattr(store, "close"):
            await store.close()

    with asyncio.Runner() as runner:
        store = runner.run(made())
        try:
            yield concurrent_calls(runner, _get_then_put(store), callers)
        finally:
            runner.run(close(store))


@contextmanager
def _key_value_memory(_: Environment) -> Iterator[Measure]:
    from key_value.aio.stores.memory import MemoryStore

    with _key_value(MemoryStore) as measure:
        yield measure


@contextmanager
def _key_value_disk(environment: Environment) -> Iterator[Measure]:
    from key_value.aio.stores.disk import DiskStore

    with _key_value(lambda: DiskStore(directory=environment.new_path())) as measure:
        yield measure


@contextmanager
def _key_value_postgres(environment: Environment, callers: int = 1) -> Iterator[Measure]:
    from key_value.aio.stores.postgresql import PostgreSQLStore

    with (
        environment.new_database() as url,
        _key_value(lambda: PostgreSQLStore(url=url), callers) as measure,
    ):
        yield measure


def _of_key_value(opened: Callable[[Environment], Any], *extra: str, fraction: float = 1.0) -> Contender:
    requires = ("py-key-value-aio", *extra)
    return Contender("py-key-value", opened, _GET_THEN_PUT, role="peer", requires=requires, fraction=fraction)


PEERS = {
    "pg-nonce": (_of_key_value(_key_value_postgres, "asyncpg"),),
    **{
        f"await-nonce-{callers}": (
            _of_key_value(partial(_key_value_postgres, callers=callers), "asyncpg", fraction=0.2),
        )
        for callers in (1, 10, 50)
    },
    "sqlite-nonce": (
        Contender("diskcache", _diskcache, "add; synchronous = NORMAL", role="peer", requires=("diskcache",)),
        _of_key_value(_key_value_disk, "diskcache", fraction=0.2),
    ),
    "memory-nonce": (
        Contender("limits", _limits, "fixed window, once a day", role="peer", requires=("limits",)),
        _of_key_value(_key_value_memory, fraction=0.2),
    ),
}
