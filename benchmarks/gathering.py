"""Tasks of one event loop that call at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from .model import Numbers, Round, throughput
from .workload import nonce


def gathered(runner: asyncio.Runner, call: Callable[[str], Awaitable[bool]], callers: int) -> Round:
    """Calls per second, each with a new name; each of so many tasks awaits its own, one after the other."""

    async def task(names: Iterable[str]) -> int:
        return sum([await call(name) for name in names])

    async def all_tasks(names: list[str]) -> int:
        shares = [names[first::callers] for first in range(callers)]
        return sum(await asyncio.gather(*map(task, shares)))

    numbers = Numbers()
    return throughput(
        lambda names: runner.run(all_tasks(names)), lambda count: list(map(nonce, numbers(count)))
    )
