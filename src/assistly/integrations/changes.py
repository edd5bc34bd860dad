"""A change of a JSON value in the sessions of a storage."""

from __future__ import annotations

import json
from typing import NamedTuple

from assistly.storage.aio.stores import AsyncSessions


class Change(NamedTuple):
    """`text` is JSON; None deletes the value. A rewrite stores what is stored already, or else `text`."""

    text: str | None
    is_rewrite: bool = False

    async def apply(self, sessions: AsyncSessions, name: str) -> None:
        """Make the change."""
        if self.text is None:
            await sessions.delete(name)
        elif self.is_rewrite:
            value = json.loads(self.text)
            await sessions.update(name, lambda stored: value if stored is None else stored)
        else:
            await sessions.put(name, json.loads(self.text))
