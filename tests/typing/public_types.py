"""What type checkers say about the public API. mypy and pyright check this file; nothing runs it.

`assert_type` fails if a type is another one. A `type: ignore` fails if there is no error to ignore.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import aiosqlite
import psycopg
import sqlalchemy as sa
from django.db import connection as django_connection  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import orm
from sqlalchemy.ext import asyncio

from assistly.storage import (
    Approval,
    AsyncStorage,
    Claimed,
    Event,
    IdempotencyClaim,
    IdempotencyRecord,
    Job,
    JobStatus,
    Json,
    NewJob,
    Outcome,
    Posted,
    Session,
    Settled,
    Snapshot,
    Storage,
    WorkerLock,
    open_async_storage,
    open_storage,
)
from assistly.worker import AsyncWorker, Worker

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def opening() -> None:
    with open_storage() as storage:
        assert_type(storage, Storage)
    open_storage(engine="sqlite", sqlite_path="bot.db", pool_size=2, retention_posted_days=None)
    open_storage(engine=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    options: dict[str, Any] = {"shelf_size": 4}
    open_storage(engine="shelf", **options)
    with open_storage() as storage, storage.transaction() as tx:
        assert_type(tx, Storage)


async def opening_with_await() -> None:
    async with open_async_storage() as storage:
        assert_type(storage, AsyncStorage)
        async with storage.transaction() as tx:
            assert_type(tx, AsyncStorage)


def binding(
    storage: Storage,
    session: orm.Session,
    scoped: orm.scoped_session[orm.Session],
    connection: sa.Connection,
    psycopg_connection: psycopg.Connection[Any],
    sqlite_connection: sqlite3.Connection,
) -> None:
    for each in (session, scoped, connection, psycopg_connection, sqlite_connection):
        assert_type(storage.bind(each), Storage)
    storage.bind(django_connection)
    storage.bind(connection.engine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.bind(orm.sessionmaker())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.bind(orm.Session)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.bind("shop.db")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.bind(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def binding_with_await(
    storage: AsyncStorage,
    session: asyncio.AsyncSession,
    scoped: asyncio.async_scoped_session[asyncio.AsyncSession],
    connection: asyncio.AsyncConnection,
    psycopg_connection: psycopg.AsyncConnection[Any],
    sqlite_connection: aiosqlite.Connection,
) -> None:
    for each in (session, scoped, connection, psycopg_connection, sqlite_connection):
        assert_type(await storage.bind(each), AsyncStorage)
    await storage.bind(connection.engine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def json_values(storage: Storage, event: Event) -> None:
    texts: dict[str, str] = {"a": "b"}
    numbers: list[int] = [1, 2]
    nested: Mapping[str, list[dict[str, float]]] = {"a": [{"b": 1.5}]}
    for value in (texts, numbers, nested, None, True, 1, 1.5, "text"):
        storage.events.append("kind", value)
    storage.queue.schedule("mastodon", "Hello", metadata=texts)
    storage.queue.schedule("mastodon", "Hello", metadata={"tags": ["a"], "size": 1})
    storage.events.append("kind", {1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.events.append("kind", NOW)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.events.append("kind", {1: "a"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    storage.events.append("kind", [NOW])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    storage.queue.schedule("mastodon", "Hello", metadata=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(event.payload, Any)  # the application knows what it has stored


def queue(storage: Storage, jobs: list[NewJob], outcome: Outcome) -> None:
    job = storage.queue.schedule("mastodon", "Hello", scheduled_at=NOW, max_lateness=timedelta(hours=1))
    assert_type(job, Job)
    assert_type(job.metadata, dict[str, Any])
    assert_type(job.status, JobStatus)
    assert_type(storage.queue.schedule_many(jobs), list[Job])
    assert_type(storage.queue.schedule_many(jobs, returning="jobs"), list[Job])
    assert_type(storage.queue.schedule_many(jobs, returning="ids"), list[int])
    assert_type(storage.queue.schedule_many(jobs, returning="none"), list[int])
    storage.queue.schedule_many(jobs, returning="all")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(storage.queue.get(1), Job | None)
    assert_type(storage.queue.claim_due(worker_id="w"), list[Job])
    assert_type(storage.queue.sweep_and_claim(worker_id="w"), Claimed)
    assert_type(storage.queue.settle([Posted(job), outcome]), Settled)
    job.retries = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def queue_with_await(storage: AsyncStorage, jobs: list[NewJob]) -> None:
    assert_type(await storage.queue.schedule("mastodon", "Hello"), Job)
    assert_type(await storage.queue.schedule_many(jobs), list[Job])
    assert_type(await storage.queue.schedule_many(jobs, returning="ids"), list[int])


def answer() -> dict[str, str]:
    return {"state": "done"}


async def async_answer() -> dict[str, str]:
    return {"state": "done"}


def idempotency(storage: Storage) -> None:
    assert_type(storage.idempotency.run_once("key", answer), dict[str, str])
    assert_type(storage.idempotency.run_once("key", lambda: 1), int)
    storage.idempotency.run_once("key", lambda: NOW)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    claim = storage.idempotency.claim("key")
    assert_type(claim, IdempotencyClaim)
    assert_type(claim.value, Any)
    assert_type(storage.idempotency.get("key"), IdempotencyRecord | None)


async def idempotency_with_await(storage: AsyncStorage) -> None:
    assert_type(await storage.idempotency.run_once("key", answer), dict[str, str])
    assert_type(await storage.idempotency.run_once("key", async_answer), dict[str, str])


def records(storage: Storage) -> None:
    def change(data: dict[str, int]) -> Json:
        return {**data, "count": data["count"] + 1}

    assert_type(storage.sessions.get("user"), Session | None)
    assert_type(storage.sessions.update("user", change, default={"count": 0}), Session)
    assert_type(storage.approvals.add("id", {"a": 1}), Approval)
    assert_type(storage.approvals.decide("id", "approved", patch={"by": "Kim"}), Approval)
    assert_type(storage.snapshots.put("kind", [1, 2]), Snapshot)
    assert_type(storage.lock.acquire("me"), WorkerLock | None)
    assert_type(storage.nonces.register("nonce"), bool)


def publish(job: Job) -> str:
    return job.content


async def publish_with_await(job: Job) -> str:
    return job.content


def workers(storage: Storage, async_storage: AsyncStorage) -> None:
    Worker(storage, {"mastodon": publish, "bluesky": publish_with_await})
    AsyncWorker(async_storage, {"mastodon": publish_with_await})
    Worker(storage, {"mastodon": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
