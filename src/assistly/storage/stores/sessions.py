"""Sessions: one JSON value for each user, with a version."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from datetime import datetime

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import StorageUnavailable, VersionConflict
from ..records import Json, Session
from .context import Context

_ATTEMPTS = 100


class Sessions:
    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, user_id: str) -> Session | None:
        return self._context.backend.sessions.get(check.name("user_id", user_id))

    def put(
        self, user_id: str, data: Json, *, expected_version: int | None = None, now: datetime | None = None
    ) -> Session:
        """Store `data` as the next version.

        With `expected_version` (0: there must be none) it raises VersionConflict, carrying the
        stored session, unless the session is at that version.
        """
        check.name("user_id", user_id)
        text = check.canonical("data", data)
        if expected_version is not None:
            check.whole("expected_version", expected_version, least=0, most=check.MAX_ID)
        at = self._context.now(now)
        sessions = self._context.backend.sessions
        session = sessions.put(user_id, text, expected_version=expected_version, now=at)
        if session is None:
            current = sessions.get(user_id)
            found = f"at version {current.version}" if current else "not there"
            raise VersionConflict(
                f"session {user_id!r} was expected at version {expected_version} and is {found}: "
                "read it again, then repeat the change",
                current,
            )
        return session

    def update(
        self,
        user_id: str,
        change: Callable[[Json], Json],
        *,
        default: Json = None,
        now: datetime | None = None,
    ) -> Session:
        """Store what `change` makes of the data (of `default` where there is no session).

        `change` gets a copy and returns the new value. It runs in a transaction that holds the
        session, so keep it short; it may run again where two callers create one session at once.
        """
        check.name("user_id", user_id)
        fallback = check.canonical("default", default)

        def attempt(backend: StorageBackend) -> Session | None:
            session = backend.sessions.get(user_id, lock=True)
            data = change(session.data if session else json.loads(fallback))
            return backend.sessions.put(
                user_id,
                check.canonical("the result of change", data),
                expected_version=session.version if session else 0,
                now=self._context.now(now),
            )

        for _ in range(_ATTEMPTS):
            stored = self._context.atomically(attempt)
            if stored is not None:
                return stored
        raise StorageUnavailable(
            f"session {user_id!r} was created and deleted by others all the time: try again"
        )

    def delete(self, user_id: str) -> bool:
        """True if there was one."""
        return self._context.backend.sessions.delete(check.name("user_id", user_id))

    def list(self, *, after: Session | str | None = None, limit: int = 100) -> builtins.list[Session]:
        """A page by user_id. `after`: the last session of the page before, or its user_id."""
        start = after.user_id if isinstance(after, Session) else after
        if start is not None:
            check.name("after", start)
        return [*self._context.backend.sessions.list(after=start, limit=check.limit(limit))]
