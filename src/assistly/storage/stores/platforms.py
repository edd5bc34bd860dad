"""Platforms: pauses and limits that all workers of a storage share."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from .. import validation as check
from ..buckets import Bucket
from ..engine.protocol import StorageBackend
from ..engine.values import PAUSES, Document, pause_end, stored_until
from ..errors import InvalidValue
from ..records import Platform
from .context import Context

LIMITS = "limits"
"""The collection of the buckets of limited platforms, by platform."""

_MOST = 1_000_000_000
_LONGEST = timedelta(days=366)
_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Platforms:
    """`storage.platforms`: what all workers share about a platform.

    No worker claims jobs of a paused platform; a claim that began before the pause may still return some. A
    limit is a number of jobs per duration, for all workers together. The name of a platform has 1 to 512
    bytes of UTF-8; the platform is stored when it is first paused or limited. All methods raise InvalidValue
    for wrong arguments; `now` is the time of the call (default: the storage's clock, else the engine's).
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, platform: str, *, now: datetime | None = None) -> Platform | None:
        """Return the platform; None if it was never paused or limited."""
        check.name("platform", platform)
        return _read(self._context.backend, platform, self._context.now(now))

    def list(self, *, now: datetime | None = None) -> builtins.list[Platform]:
        """Return all platforms that were ever paused or limited, by name."""
        backend, at = self._context.backend, self._context.now(now)
        documents: dict[str, builtins.list[Document]] = {}
        for collection in (PAUSES, LIMITS):
            for document in _all(backend, collection):
                documents.setdefault(document.key, []).append(document)
        return [_platform(name, found, at) for name, found in sorted(documents.items())]

    def pause(
        self,
        platform: str,
        *,
        until: datetime | None = None,
        reason: str | None = None,
        by: str | None = None,
        now: datetime | None = None,
    ) -> Platform:
        """Pause the platform `until` then (default: until `resume`). This replaces an earlier pause.

        `reason` is a str, `by` a name; both are for people. Claimed jobs are not affected, and lateness is
        not either: a job can be missed during a pause.
        """
        data = _pause(until, reason, by)

        def attempt(backend: StorageBackend) -> Platform:
            at = self._context.now(now, backend)
            backend.documents.put(PAUSES, platform, data, expected_version=None, now=at)
            return _existing(backend, platform, at)

        check.name("platform", platform)
        return self._context.atomically(attempt)

    def pause_at_least(
        self, platform: str, until: datetime, *, reason: str | None = None, by: str | None = None
    ) -> Platform:
        """Like `pause`, unless the platform is already paused for longer: then that pause stays.

        Workers call it after a rate limit of the platform.
        """
        check.name("platform", platform)
        end = check.utc("until", until)
        data = _pause(until, reason, by)

        def attempt(backend: StorageBackend) -> Platform:
            at = self._context.now(None, backend)
            is_done = False
            while not is_done:
                stored = backend.documents.get(PAUSES, platform, lock=True)
                current = None if stored is None else pause_end(stored)
                version = 0 if stored is None else stored.version
                is_done = (
                    stored is not None and (current is None or current >= end)
                ) or backend.documents.put(
                    PAUSES, platform, data, expected_version=version, now=at
                ) is not None
            return _existing(backend, platform, at)

        return self._context.atomically(attempt)

    def resume(self, platform: str, *, now: datetime | None = None) -> bool:
        """End the pause, and return whether the platform was paused."""
        check.name("platform", platform)

        def attempt(backend: StorageBackend) -> bool:
            at = self._context.now(now, backend)
            stored = backend.documents.get(PAUSES, platform, lock=True)
            if stored is None:
                return False
            end = pause_end(stored)
            if end is not None and end <= at:
                return False
            ended = _pause(_EPOCH, None, None)
            backend.documents.put(PAUSES, platform, ended, expected_version=None, now=at)
            return True

        return self._context.atomically(attempt)

    def limit(
        self,
        platform: str,
        count: int | None,
        per: timedelta | None = None,
        *,
        now: datetime | None = None,
    ) -> Platform:
        """Limit the platform to `count` (1 to a billion) jobs within `per` (at most 366 days).

        With `count` None, the limit is removed. At most `count` jobs are taken at once, and after that as
        many as time has added: see `take`. Tokens taken under an earlier limit count for the new one.
        """
        check.name("platform", platform)
        if count is None:
            if per is not None:
                raise InvalidValue("per must be None if count is None: there is no limit")
        else:
            check.whole("count", count, least=1, most=_MOST)
            per = check.duration("per", per, zero=False)
            if per > _LONGEST:
                raise InvalidValue(f"per must be at most {_LONGEST.days} days, not {per}")

        def attempt(backend: StorageBackend) -> Platform:
            is_done = False
            while not is_done:
                # Another caller may insert the document meanwhile: one that does not exist is not locked.
                stored = backend.documents.get(LIMITS, platform, lock=True)
                at = self._context.now(now, backend)
                bucket = _bucket(stored)
                if count is None or per is None:
                    changed = None
                elif bucket is None:
                    changed = Bucket.full(count, per, at)
                else:
                    changed = bucket.limited_to(count, per, at)
                version = 0 if stored is None else stored.version
                is_done = _store(backend, platform, changed, at, version)
            return _existing(backend, platform, at)

        return self._context.atomically(attempt)

    def take(self, platform: str, most: int, *, now: datetime | None = None) -> int:
        """Take up to `most` (1 to a billion) tokens, one per job, and return how many were available.

        Without a limit, returns `most`. A limit of `count` per `per` is a token bucket of `count` tokens that
        gains `count` tokens per `per`, evenly: in any interval, all callers together get at most `count` plus
        what was gained in that interval. Pauses do not matter here. Give back unused tokens.
        """
        check.name("platform", platform)
        check.whole("most", most, least=1, most=_MOST)

        def attempt(backend: StorageBackend) -> int:
            bucket = _bucket(backend.documents.get(LIMITS, platform, lock=True))
            if bucket is None:
                return most
            at = self._context.now(now, backend)
            left, tokens = bucket.taken(most, at)
            if tokens:
                _store(backend, platform, left, at)
            return tokens

        return self._context.atomically(attempt)

    def give_back(self, platform: str, tokens: int, *, now: datetime | None = None) -> None:
        """Give back unused tokens (1 to a billion) of `take`."""
        check.name("platform", platform)
        check.whole("tokens", tokens, least=1, most=_MOST)

        def attempt(backend: StorageBackend) -> None:
            bucket = _bucket(backend.documents.get(LIMITS, platform, lock=True))
            if bucket is not None:
                at = self._context.now(now, backend)
                _store(backend, platform, bucket.given_back(tokens, at), at)

        self._context.atomically(attempt)

    def available(self, platform: str, *, now: datetime | None = None) -> int | None:
        """Return how many tokens are available now; None if the platform has no limit. Takes none."""
        check.name("platform", platform)
        bucket = _bucket(self._context.backend.documents.get(LIMITS, platform))
        if bucket is None:
            return None
        return bucket.taken(_MOST, self._context.now(now))[1]


def _pause(until: datetime | None, reason: str | None, by: str | None) -> check.JsonText:
    end = check.optional_utc("until", until)
    if reason is not None:
        check.content("reason", reason)
    check.optional_name("by", by)
    return check.canonical("pause", {"until": stored_until(end), "reason": reason, "by": by})


def _bucket(limit: Document | None) -> Bucket | None:
    return None if limit is None or limit.data is None else Bucket.from_json(limit.data)


def _store(
    backend: StorageBackend, platform: str, bucket: Bucket | None, now: datetime, version: int | None = None
) -> bool:
    """Whether the stored limit was at that version, or none was asked for."""
    data = check.canonical("limit", None if bucket is None else bucket.as_json())
    return backend.documents.put(LIMITS, platform, data, expected_version=version, now=now) is not None


def _existing(backend: StorageBackend, platform: str, now: datetime) -> Platform:
    found = _read(backend, platform, now)
    assert found is not None  # noqa: S101 - it was paused in this transaction
    return found


def _read(backend: StorageBackend, platform: str, now: datetime) -> Platform | None:
    read = (backend.documents.get(collection, platform) for collection in (PAUSES, LIMITS))
    found = [document for document in read if document is not None]
    return _platform(platform, found, now) if found else None


def _all(backend: StorageBackend, collection: str) -> Iterator[Document]:
    after: str | None = None
    while page := backend.documents.list(collection, after=after, limit=_PAGE):
        yield from page
        after = page[-1].key


def _platform(name: str, documents: list[Document], now: datetime) -> Platform:
    """From its documents, at least one."""
    by_collection = {document.collection: document for document in documents}
    pause = by_collection.get(PAUSES)
    until = None if pause is None else pause_end(pause)
    pause = None if until is not None and until <= now else pause
    bucket = _bucket(by_collection.get(LIMITS))
    set_at = [
        bucket.limited_at if bucket is not None and document.collection == LIMITS else document.updated_at
        for document in documents
    ]
    return Platform(
        name,
        paused=pause is not None,
        paused_until=None if pause is None else until,
        reason=None if pause is None else pause.data["reason"],
        by=None if pause is None else pause.data["by"],
        limit=None if bucket is None else bucket.limit,
        updated_at=max(set_at),
    )
