"""A worker beside a server, on its event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from assistly.storage import AsyncStorage
from assistly.worker import AsyncWorker, Publisher, WorkerOptions


@asynccontextmanager
async def publishing(
    storage: AsyncStorage,
    publishers: Mapping[str, Publisher] | None,
    options: WorkerOptions,
    logger: logging.Logger,
) -> AsyncIterator[AsyncWorker | None]:
    """Run a worker inside the block, and yield it; None without publishers. The end of the block stops it.

    If it fails, that is logged, and the end of the block raises the error.
    """
    if not publishers:
        yield None
        return
    worker = AsyncWorker(storage, publishers, **options)

    async def run() -> None:
        try:
            await worker.run()
        except Exception:
            logger.exception("the worker failed; no more jobs are published")
            raise

    running = asyncio.create_task(run())
    try:
        yield worker
    finally:
        worker.stop()
        await running
