"""The rules of every kind of record but the queue."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ..records import Json, NewEvent
from .fixtures import DAY, MINUTE, TICK
from .machine_sides import (
    KEY_LEASE,
    LOCK_TTL,
    NONE,
    Engine,
    LockstepMachine,
    Refused,
    Side,
    jitters,
    limits,
    picks,
    values,
)

IDS = ("a", "B", "b", "\u00e9", "\uffff", "\U0001f600")

ids = st.sampled_from(IDS)
names = st.just("a") | ids
nonces = st.builds(lambda one, other: one + other, ids, ids)
ages = st.none() | st.builds(
    lambda age, jitter: age + jitter,
    st.sampled_from([NONE, MINUTE, DAY, 2 * DAY, 10 * DAY]),
    st.sampled_from([NONE, NONE, TICK, -TICK]),
)
fingerprints = st.sampled_from([None, None, "f", "g"])
statuses = st.sampled_from(["pending", "approved", "rejected"])
patches = st.sampled_from([None, None, {}, {"a": 2}, {"b": [1.0]}])
versions = st.sampled_from([None, None, 0, 1, 2, 3])
owners = st.sampled_from(["ann", "bob"])
event_types = st.sampled_from(["posted", "failed"])
platforms = st.sampled_from(["x", "x", "mastodon", "\u00e9"])
pause_lengths = st.sampled_from([NONE, TICK, MINUTE, DAY, -MINUTE])
limit_lengths = st.sampled_from([TICK, 7 * TICK, MINUTE, MINUTE + TICK, DAY])


class SessionMachine(LockstepMachine):
    @rule(user=names, data=values, version=versions)
    def put_session(self, user: str, data: Json, version: int | None) -> None:
        self.ask(lambda api, _: api.sessions.put(user, data, expected_version=version))

    @rule(user=names, value=values, default=values, refuse=st.booleans())
    def update_session(self, user: str, value: Json, default: Json, refuse: bool) -> None:
        def change(data: Json) -> Json:
            if refuse:
                raise Refused
            return {"was": data, "is": value} if data != {} else value

        self.ask(lambda api, _: api.sessions.update(user, change, default=default))

    @rule(user=names)
    def delete_session(self, user: str) -> None:
        self.ask(lambda api, _: api.sessions.delete(user))

    @rule(user=names, after=st.none() | names, limit=limits)
    def read_sessions(self, user: str, after: str | None, limit: int) -> None:
        self.ask(lambda api, _: (api.sessions.get(user), api.sessions.list(after=after, limit=limit)))

    @invariant()
    def sessions_agree(self) -> None:
        self.ask(lambda api, _: api.sessions.list(limit=1000))


class ApprovalMachine(LockstepMachine):
    @rule(
        approvals=st.lists(
            st.tuples(ids, values, st.just("pending") | statuses, ages), min_size=1, max_size=4
        )
    )
    def add_approvals(self, approvals: list[tuple[str, Json, str, timedelta | None]]) -> None:
        for id, payload, status, age in approvals:
            self._add(id, payload, status, self.at_age(age))

    def _add(self, id: str, payload: Json, status: str, created: datetime | None) -> None:
        self.ask(lambda api, _: api.approvals.add(id, payload, status=status, created_at=created))

    @rule(id=names, status=statuses, expected=st.just("pending") | statuses, patch=patches)
    def decide(self, id: str, status: str, expected: str, patch: dict[str, Json] | None) -> None:
        stored = self.sides[0].root.approvals.get(id)
        if stored is not None and not isinstance(stored.payload, dict):
            patch = None
        self.ask(lambda api, _: api.approvals.decide(id, status, expected=expected, patch=patch))

    @rule(id=names, status=st.none() | statuses, before=st.none() | names, limit=limits)
    def read_approvals(self, id: str, status: str | None, before: str | None, limit: int) -> None:
        self.ask(lambda api, _: api.approvals.get(id))
        self.ask(lambda api, _: api.approvals.list(status=status, before=before, limit=limit))

    @invariant()
    def approvals_agree(self) -> None:
        self.ask(lambda api, _: api.approvals.list(limit=1000))


class IdempotencyMachine(LockstepMachine):
    """`known["keys"]` holds every claim, whatever its state was."""

    @rule(
        key=names,
        fingerprint=fingerprints,
        lease=st.sampled_from([TICK, KEY_LEASE]),
        again=st.none() | jitters,
    )
    def claim_key(self, key: str, fingerprint: str | None, lease: timedelta, again: timedelta | None) -> None:
        """Claim, and perhaps claim again when the lease runs out, or right before or after that."""

        def ask(api: Any, _: Side) -> Any:
            return api.idempotency.claim(key, fingerprint=fingerprint, lease=lease)

        self.remember("keys", self.ask(ask))
        if again is not None:
            self.clock.advance(lease + again)
            self.remember("keys", self.ask(ask))

    @precondition(lambda self: self.knows("keys"))
    @rule(pick=picks, value=values, abandon=st.sampled_from([False, False, True]))
    def end_key(self, pick: int, value: Json, abandon: bool) -> None:
        claim = self.pick("keys", pick)
        if abandon:
            self.ask(lambda api, side: api.idempotency.abandon(self.of(claim, side)))
        else:
            self.ask(lambda api, side: api.idempotency.complete(self.of(claim, side), value))

    @rule(key=names)
    def forget_key(self, key: str) -> None:
        self.ask(lambda api, _: api.idempotency.forget(key))

    @rule(puts=st.lists(st.tuples(ids, values, ages), min_size=1, max_size=4))
    def put_keys(self, puts: list[tuple[str, Json, timedelta | None]]) -> None:
        for key, value, age in puts:
            self._put(key, value, self.at_age(age))

    def _put(self, key: str, value: Json, saved: datetime | None) -> None:
        self.ask(lambda api, _: api.idempotency.put(key, value, saved_at=saved))

    @rule(key=names, value=values, fingerprint=fingerprints, refuse=st.booleans())
    def run_once(self, key: str, value: Json, fingerprint: str | None, refuse: bool) -> None:
        runs: list[Side] = []

        def ask(api: Any, side: Side) -> Any:
            def function() -> Json:
                runs.append(side)
                if refuse:
                    raise Refused
                return value

            return api.idempotency.run_once(key, function, fingerprint=fingerprint)

        self.ask(ask)
        assert runs in ([], self.sides), "the function ran on some sides only, or twice"

    @invariant()
    def keys_agree(self) -> None:
        self.ask(lambda api, _: [(api.idempotency.get(key), api.idempotency.peek(key)) for key in IDS])


class LockMachine(LockstepMachine):
    """`known["locks"]` holds every lock that was handed out."""

    def name(self, short: str) -> str:
        return f"{self.unique}-{short}"

    @rule(owner=owners, short=st.sampled_from(["a", "A"]), ttl=st.sampled_from([TICK, LOCK_TTL]))
    def acquire(self, owner: str, short: str, ttl: timedelta) -> None:
        answers = self.ask(lambda api, _: api.lock.acquire(owner, ttl=ttl, name=self.name(short)), new=True)
        self.remember("locks", answers)

    @precondition(lambda self: self.knows("locks"))
    @rule(pick=picks, ttl=st.sampled_from([TICK, LOCK_TTL]), release=st.booleans())
    def keep_or_release(self, pick: int, ttl: timedelta, release: bool) -> None:
        lock = self.pick("locks", pick)
        if release:
            self.ask(lambda api, side: api.lock.release(self.of(lock, side)))
        else:
            self.ask(lambda api, side: api.lock.renew(self.of(lock, side), ttl=ttl))

    @invariant()
    def fences_only_grow(self) -> None:
        """A lock that was acquired later has a higher fence."""
        for side in self.sides:
            for short in ("a", "A"):
                fences = [
                    self.of(lock, side).fence
                    for lock in self.known.get("locks", [])
                    if self.of(lock, side).name == self.name(short)
                ]
                assert fences == sorted(fences), f"{side.name}: {fences}"

    @invariant()
    def locks_agree(self) -> None:
        self.ask(lambda api, _: [api.lock.current(self.name(short)) for short in ("a", "A")])
        self.ask(lambda api, _: [lock for lock in api.lock.list() if lock.name.startswith(self.unique)])


class LogMachine(LockstepMachine):
    """Events, nonces and snapshots. `known["events"]` holds the events."""

    def __init__(self, *engines: Engine) -> None:
        super().__init__(*engines)
        self.tried: set[str] = set()

    @rule(batch=st.lists(st.tuples(event_types, values, ages), max_size=3), together=st.booleans())
    def append(self, batch: list[tuple[str, Json, timedelta | None]], together: bool) -> None:
        events = [NewEvent(event_type, payload, self.at_age(age)) for event_type, payload, age in batch]
        if together:
            self.remember("events", self.ask(lambda api, _: api.events.append_many(events), new=True))
            return
        for event in events:
            self._append_one(event)

    def _append_one(self, new: NewEvent) -> None:
        answers = self.ask(
            lambda api, _: api.events.append(new.event_type, new.payload, created_at=new.created_at), new=True
        )
        self.remember("events", answers)

    @rule(pick=picks, event_type=st.none() | event_types, limit=limits)
    def read_events(self, pick: int, event_type: str | None, limit: int) -> None:
        event = self.pick("events", pick) if self.knows("events") else None

        def later(api: Any, side: Side) -> Any:
            id = 0 if event is None else self.of(event, side).id
            return api.events.read_after(id, event_type=event_type, limit=limit)

        def earlier(api: Any, side: Side) -> Any:
            before = None if event is None else self.of(event, side).id
            return api.events.list(event_type=event_type, before=before, limit=limit)

        self.ask(later)
        self.ask(earlier)

    @rule(nonces=st.lists(st.tuples(nonces, ages), min_size=1, max_size=3))
    def register(self, nonces: list[tuple[str, timedelta | None]]) -> None:
        for nonce, age in nonces:
            self.tried.add(nonce)
            self._register_one(nonce, self.at_age(age))

    def _register_one(self, nonce: str, moment: datetime | None) -> None:
        self.ask(lambda api, _: api.nonces.register(nonce, moment))

    @rule(kind=names, payload=values)
    def put_snapshot(self, kind: str, payload: Json) -> None:
        kind = f"{self.unique}-{kind}"
        self.ask(lambda api, _: (api.snapshots.put(kind, payload), api.snapshots.get(kind)))

    @invariant()
    def logs_agree(self) -> None:
        self.ask(lambda api, _: (api.events.list(limit=1000), api.events.read_after(0, limit=1000)))
        self.ask(lambda api, _: {nonce: api.nonces.seen(nonce) for nonce in self.tried})

    @invariant()
    def snapshots_agree(self) -> None:
        self.ask(
            lambda api, _: [
                snapshot for snapshot in api.snapshots.list() if snapshot.kind.startswith(self.unique)
            ]
        )


class PlatformMachine(LockstepMachine):
    """Pauses and limits."""

    @rule(
        platform=platforms,
        until=st.none() | pause_lengths,
        note=st.none() | ids,
        at_least=st.sampled_from([False, False, True]),
    )
    def pause(self, platform: str, until: timedelta | None, note: str | None, at_least: bool) -> None:
        end = None if until is None else self.clock() + until
        if at_least and end is not None:
            self.ask(lambda api, _: api.platforms.pause_at_least(platform, end, by=note))
        else:
            self.ask(lambda api, _: api.platforms.pause(platform, until=end, reason=note))

    @rule(platform=platforms)
    def resume(self, platform: str) -> None:
        self.ask(lambda api, _: api.platforms.resume(platform))

    @rule(platform=platforms, limit=st.none() | st.tuples(st.integers(1, 5), limit_lengths))
    def limit(self, platform: str, limit: tuple[int, timedelta] | None) -> None:
        self.ask(lambda api, _: api.platforms.limit(platform, *((None,) if limit is None else limit)))

    @rule(platform=platforms, most=st.integers(1, 6), back=st.integers(0, 2))
    def take(self, platform: str, most: int, back: int) -> None:
        self.ask(lambda api, _: api.platforms.take(platform, most))
        if back:
            self.ask(lambda api, _: api.platforms.give_back(platform, back))

    @invariant()
    def platforms_agree(self) -> None:
        self.ask(lambda api, _: api.platforms.list())
