"""Sessions: one JSON value for each user, with a version."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from datetime import datetime

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, StorageUnavailable, VersionConflict
from ..records import Json, JsonValue, Session
from .context import Context

_ATTEMPTS = 100


class Sessions:
    """`storage.sessions`: one JSON value for each user, with a version that counts its changes.

    A user id is a name of 1 to 512 bytes of UTF-8; the data is JSON of at most 1 MiB.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, user_id: str) -> Session | None:
        """Return the session of a user, or None. Creates nothing."""
        return self._context.backend.sessions.get(check.name("user_id", user_id))

    def put(
        self, user_id: str, data: Json, *, expected_version: int | None = None, now: datetime | None = None
    ) -> Session:
        """Store `data` as the next version of a user's session, and return the session.

        If `expected_version` is given, the session must have that version (0: must not exist); otherwise
        raises VersionConflict with the stored session, and changes nothing. Raises InvalidValue for data that
        is not JSON.
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
            found = f"at version {current.version}" if current else "not stored"
            raise VersionConflict(
                f"session {user_id!r} was expected at version {expected_version}, but is {found}: "
                "read it again, then repeat the change",
                current,
            )
        return session

    def update(
        self,
        user_id: str,
        change: Callable[[JsonValue], Json],
        *,
        default: Json = None,
        now: datetime | None = None,
    ) -> Session:
        """Atomically read, change and store a user's session; no concurrent update is lost.

        `change` gets a copy of the data (of `default` if there is no session) and returns the new data. It
        runs inside a transaction that locks the session: keep it short, and do not call this storage in it
        (TransactionOpen). It may run again if two callers create the same session at once, or after a
        deadlock. If it raises, nothing is changed and the exception is raised again. Raises InvalidValue for
        a result that is not JSON, and for None, which only `put` stores: a function without `return` returns
        it.
        """
        check.name("user_id", user_id)
        check.function("change", change)
        fallback = check.canonical("default", default)

        def attempt(backend: StorageBackend) -> Session | None:
            session = backend.sessions.get(user_id, lock=True)
            data = change(session.data if session else json.loads(fallback))
            if data is None:
                raise InvalidValue(
                    "change returned None: it must return the new data (`put` stores None, `delete` deletes)"
                )
            return backend.sessions.put(
                user_id,
                check.result("change", data),
                expected_version=session.version if session else 0,
                now=self._context.now(now, backend),
            )

        for _ in range(_ATTEMPTS):
            stored = self._context.atomically(attempt)
            if stored is not None:
                return stored
        raise StorageUnavailable(
            f"session {user_id!r} was created or deleted by others in each of {_ATTEMPTS} attempts: try again"
        )

    def delete(self, user_id: str) -> bool:
        """Delete a user's session, and return whether there was one."""
        return self._context.backend.sessions.delete(check.name("user_id", user_id))

    def list(self, *, after: Session | str | None = None, limit: int = 100) -> builtins.list[Session]:
        """Return a page of up to `limit` (1 to 1000) sessions by user_id, in code point order.

        `after` is the last session of the previous page, or its user_id.
        """
        start = after.user_id if isinstance(after, Session) else after
        if start is not None:
            check.name("after", start)
        return [*self._context.backend.sessions.list(after=start, limit=check.limit(limit))]
