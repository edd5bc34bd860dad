"""A Telegram bot: it asks what to post in a channel, and when, and posts it then.

    pip install httpx  # or the extra `webhook`
    TELEGRAM_TOKEN=… TELEGRAM_CHANNEL=@bakery python examples/telegram_bot.py

Then send it /post. The storage is the one that the environment describes, by default data/assistly.db.
After a restart each conversation continues where it was, and an update that Telegram delivers twice changes
nothing the second time. A worker on the same event loop publishes due posts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx

from assistly.storage import (
    AsyncStorage,
    InvalidValue,
    Job,
    OutcomeUnknown,
    ScheduleConflict,
    StorageUnavailable,
    open_async_storage,
)
from assistly.worker import AsyncWorker, Permanent, Retry, Unknown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StorageKey:
    """The fields of aiogram's `StorageKey`."""

    bot_id: int
    chat_id: int
    user_id: int
    thread_id: int | None = None
    business_connection_id: str | None = None
    destiny: str = "default"


class Conversations:
    """State and data of each conversation, in a session, by the methods of aiogram's `BaseStorage`.

    With aiogram: `class FSM(Conversations, BaseStorage)`, and `Dispatcher(storage=FSM(storage))`.
    """

    def __init__(self, storage: AsyncStorage) -> None:
        self._sessions = storage.sessions

    async def set_state(self, key: StorageKey, state: Any = None) -> None:
        name = getattr(state, "state", state)  # aiogram has strings, and objects with a string
        await self._change(key, lambda _: {"state": name})

    async def get_state(self, key: StorageKey) -> str | None:
        return (await self._read(key))[0]

    async def set_data(self, key: StorageKey, data: dict[str, Any]) -> None:
        await self._change(key, lambda _: {"data": {**data}})

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        return (await self._read(key))[1]

    async def update_data(self, key: StorageKey, data: dict[str, Any]) -> dict[str, Any]:
        """Atomic: of two updates at once, none is lost."""
        return await self._change(key, lambda old: {"data": old["data"] | data})

    async def close(self) -> None:
        """Does nothing: the storage is closed by the code that opened it."""

    @staticmethod
    def _name(key: StorageKey) -> str:
        return ":".join(["fsm", *map(str, astuple(key))])

    async def _read(self, key: StorageKey) -> tuple[str | None, dict[str, Any]]:
        session = await self._sessions.get(self._name(key))
        return (session.data["state"], session.data["data"]) if session else (None, {})

    async def _change(self, key: StorageKey, change: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        new: dict[str, Any] = {"state": None, "data": {}}
        session = await self._sessions.update(self._name(key), lambda old: old | change(old), default=new)
        data: dict[str, Any] = session.data["data"]
        return data


class Refused(Exception):
    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        super().__init__(f"{status}: {answer.get('description', 'no reason given')}")
        self.status = status
        self.retry_after: float | None = answer.get("parameters", {}).get("retry_after")


@dataclass
class Bot:
    storage: AsyncStorage
    client: httpx.AsyncClient
    id: int
    channel: str
    pause: float = 5.0

    async def run(self) -> None:
        worker = AsyncWorker(self.storage, {"telegram": self.publish})
        async with asyncio.TaskGroup() as tasks:
            polling = tasks.create_task(self.poll())
            await worker.run(handle_signals=True)  # until SIGTERM or SIGINT
            polling.cancel()

    async def poll(self) -> None:
        offset = 0
        while True:
            try:
                for update in await self.call("getUpdates", offset=offset, timeout=50):
                    await self.handle(update)
                    offset = update["update_id"] + 1
            except (httpx.HTTPError, Refused, StorageUnavailable, OutcomeUnknown) as error:
                logger.warning("trying again in %.0f seconds: %r", self.pause, error)
                await asyncio.sleep(self.pause)

    async def handle(self, update: dict[str, Any]) -> None:
        """Store what the update changes and the reply in one transaction, then send the reply."""
        message, key = update.get("message", {}), f"telegram:{self.id}:{update['update_id']}"
        if "text" not in message:
            return
        try:
            async with self.storage.transaction() as tx:
                reply = await tx.idempotency.run_once(key, partial(self.reply, tx, message))
        except InvalidValue as error:
            reply = f"I cannot take that: {error}"
        try:
            await self.call("sendMessage", chat_id=message["chat"]["id"], text=reply)
        except Refused as error:
            logger.warning("the reply to update %d is lost: %s", update["update_id"], error)

    async def reply(self, tx: AsyncStorage, message: dict[str, Any]) -> str:
        conversations, text, chat = Conversations(tx), message["text"], message["chat"]
        key = StorageKey(self.id, chat["id"], message.get("from", chat)["id"])
        state = await conversations.get_state(key)
        if text == "/post":
            await conversations.set_state(key, "content")
            return "What shall I post?"
        if state == "content":
            await conversations.update_data(key, {"content": text})
            await conversations.set_state(key, "minutes")
            return "In how many minutes?"
        if state != "minutes":
            return "Send /post for a new post."
        if not re.fullmatch("[0-9]{1,5}", text):
            return "A number, please."
        at = datetime.now(UTC) + timedelta(minutes=int(text))
        content = (await conversations.get_data(key))["content"]
        try:
            job = await tx.queue.schedule("telegram", content, at, min_gap=timedelta(minutes=30))
        except ScheduleConflict as conflict:
            return f"Post {conflict.job.id} is too near to that. In how many minutes?"
        await conversations.set_state(key, None)
        await conversations.set_data(key, {})
        return f"Post {job.id} goes out on {job.scheduled_at:%d %B, %H:%M} UTC."

    async def call(self, method: str, **parameters: Any) -> Any:
        response = await self.client.post(method, json=parameters)
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = response.json()
        if not answer.get("ok"):
            raise Refused(response.status_code, answer)
        return answer["result"]

    async def publish(self, job: Job) -> str:
        try:
            sent = await self.call("sendMessage", chat_id=self.channel, text=job.content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            raise  # it was not sent
        except httpx.HTTPError as error:
            raise Unknown(f"no answer: {error!r}") from error
        except Refused as error:
            if error.retry_after is not None:
                raise Retry(str(error), after=error.retry_after) from error
            raise (Permanent if 400 <= error.status < 500 else Unknown)(str(error)) from error
        return str(sent["message_id"])


async def main() -> None:
    token, channel = (os.environ.get(name) for name in ("TELEGRAM_TOKEN", "TELEGRAM_CHANNEL"))
    if not (token and channel):
        raise SystemExit(
            "set TELEGRAM_TOKEN, which @BotFather gives you, and TELEGRAM_CHANNEL, such as @bakery"
        )
    url = f"https://api.telegram.org/bot{token}/"
    async with open_async_storage() as storage, httpx.AsyncClient(base_url=url, timeout=60) as client:
        await Bot(storage, client, int(token.partition(":")[0]), channel).run()


if __name__ == "__main__":
    asyncio.run(main())
