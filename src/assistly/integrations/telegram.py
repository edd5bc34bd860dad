"""Persistence for python-telegram-bot in a storage. Needs the extra `telegram`."""

from __future__ import annotations

import json
from typing import Any

from assistly.storage import validation as check
from assistly.storage.aio import AsyncStorage
from assistly.storage.errors import InvalidValue

from .keyboards import Keyboard, checked_keyboards
from .named_values import NamedValues
from .requirements import framework, json_object

with framework("python-telegram-bot 22", "telegram"):
    from telegram.ext import BasePersistence, PersistenceInput

__all__ = ["TelegramPersistence"]

_Data = dict[Any, Any]
_Key = tuple[int | str, ...]
_CallbackData = tuple[list[Keyboard], dict[str, str]]


class TelegramPersistence(BasePersistence[_Data, _Data, _Data]):
    """Keeps the data of python-telegram-bot in sessions of the storage:
    `ApplicationBuilder().persistence(…)`.

    Each user, chat and conversation has a session, whose name begins with `telegram:` and the bot's id. What
    is not JSON raises InvalidValue, which names the key, in the error handlers of the application, and the
    value that was stored before stays. A keyboard whose callback data is not JSON raises it once, and is not
    stored. If the storage does not answer, one update raises its error, and the next one writes all that has
    changed. The code that opened `storage` closes it, after `Application.shutdown`.
    """

    def __init__(
        self, storage: AsyncStorage, store_data: PersistenceInput | None = None, update_interval: float = 60
    ) -> None:
        super().__init__(store_data, update_interval)
        self._values = NamedValues(storage)
        self._reported: set[str] = set()

    async def get_user_data(self) -> dict[int, _Data]:
        return {int(user_id): data async for user_id, data in self._values.all(self._name("user:"))}

    async def get_chat_data(self) -> dict[int, _Data]:
        return {int(chat_id): data async for chat_id, data in self._values.all(self._name("chat:"))}

    async def get_bot_data(self) -> _Data:
        return await self._values.get(self._name("bot")) or {}

    async def get_callback_data(self) -> _CallbackData | None:
        data = await self._values.get(self._name("callbacks"))
        if data is None:
            return None
        return [(id, float(at), buttons) for id, at, buttons in data["keyboards"]], data["queries"]

    async def get_conversations(self, name: str) -> dict[_Key, object]:
        stored = self._values.all(self._name("conversation:", [name])[:-1] + ",")
        return {tuple(json.loads(f"[{key}")): state async for key, state in stored}

    async def update_user_data(self, user_id: int, data: _Data) -> None:
        async with self._values.writing():
            checked = json_object(f"user_data[{user_id}]", data)
            self._values.put(self._name(f"user:{user_id}"), checked or None)

    async def update_chat_data(self, chat_id: int, data: _Data) -> None:
        async with self._values.writing():
            checked = json_object(f"chat_data[{chat_id}]", data)
            self._values.put(self._name(f"chat:{chat_id}"), checked or None)

    async def update_bot_data(self, data: _Data) -> None:
        async with self._values.writing():
            self._values.put_changed(self._name("bot"), json_object("bot_data", data))

    async def update_callback_data(self, data: _CallbackData) -> None:
        async with self._values.writing():
            keyboards, wrong = checked_keyboards(data[0])
            self._values.put_changed(self._name("callbacks"), {"keyboards": keyboards, "queries": data[1]})
            self._reported &= wrong.keys()
            for id, error in wrong.items():
                if id not in self._reported:
                    self._reported.add(id)
                    raise error

    async def update_conversation(self, name: str, key: _Key, new_state: object | None) -> None:
        async with self._values.writing():
            check.canonical(f"the state of the conversation {name!r} {key}", new_state)
            self._values.put(self._name("conversation:", [name, *key]), new_state)

    async def drop_user_data(self, user_id: int) -> None:
        await self.update_user_data(user_id, {})

    async def drop_chat_data(self, chat_id: int) -> None:
        await self.update_chat_data(chat_id, {})

    async def refresh_user_data(self, user_id: int, user_data: _Data) -> None:
        """Do nothing: the application has all data in memory, and nobody else changes it."""

    async def refresh_chat_data(self, chat_id: int, chat_data: _Data) -> None:
        """Do nothing, like `refresh_user_data`."""

    async def refresh_bot_data(self, bot_data: _Data) -> None:
        """Do nothing, like `refresh_user_data`."""

    async def flush(self) -> None:
        """Repeat the writes that failed. Raises the errors of the storage."""
        await self._values.flush()

    def _name(self, kind: str, key: object = None) -> str:
        if self.bot is None:
            raise InvalidValue("the persistence has no bot: pass it to ApplicationBuilder().persistence(…)")
        suffix = "" if key is None else json.dumps(key, separators=(",", ":"))
        return f"telegram:{self.bot.id}:{kind}{suffix}"
