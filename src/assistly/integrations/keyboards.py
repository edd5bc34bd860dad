"""The callback data of python-telegram-bot's keyboards, as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import repr as shortened
from typing import Any

from assistly.storage import validation as check
from assistly.storage.errors import InvalidValue

Keyboard = tuple[str, float, dict[str, Any]]
"""Id, time of last use, and the data of each button by its id."""


def checked_keyboards(keyboards: Iterable[Keyboard]) -> tuple[list[list[Any]], dict[str, InvalidValue]]:
    """Return the keyboards whose data is JSON, and by their ids what is wrong with the others."""
    right: list[list[Any]] = []
    wrong: dict[str, InvalidValue] = {}
    for id, used_at, buttons in keyboards:
        try:
            for data in buttons.values():
                check.canonical(f"callback_data {shortened(data)}", data)
        except InvalidValue as error:
            wrong[id] = error
        else:
            right.append([id, used_at, buttons])
    return right, wrong
