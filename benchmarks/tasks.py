"""Tasks of one event loop that call at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from .model import Measure, Numbers, throughput
from .workload import nonce


def concurrent_calls(runner: asyncio.Runner, call: Callable[[str], Awaitable[bool]], callers: int) -> Measure:
    """Calls per second, each with a new name, by so many tasks that await one call after the other."""

    async def task(names: Iterable[str]) -> int:
        return sum([await call(name) for name in names])

    async def all_tasks(names: list[str]) -> int:
        parts = [names[first::callers] for first in range(callers)]
        return sum(await asyncio.gather(*map(task, parts)))

    numbers = Numbers()
    return throughput(
        lambda names: runner.run(all_tasks(names)), lambda count: list(map(nonce, numbers(count)))
    )
