"""Compares one operation of a storage with the same operation of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from assistly.storage.engine.values import PAUSES
from assistly.storage.errors import StorageError
from assistly.storage.records import Approval, Attempt, Event, IdempotencyClaim, Job, Settled
from assistly.storage.testing.model import Model, ModelRetention
from assistly.storage.testing.model_state import ModelKey, ModelMutex, ModelPause

from .backend import Violation
from .reference import Reference, Tables
from .rules import EXPIRED, MISSED, UNKNOWN

if TYPE_CHECKING:
    from .world import World


class Undone(Exception):
    """Raised by an operation to undo its transaction."""


def model_of(world: World) -> Model:
    """A model with what the engine has stored."""
    tables, profile = world.tables, world.profile
    retention = ModelRetention(
        **{field.name: getattr(profile.retention, field.name) for field in dataclasses.fields(ModelRetention)}
    )
    model = Model(
        world.today,
        retention=retention,
        max_retries=profile.max_retries,
        retry_delay=profile.retry_delay,
    )
    model.state._numbers = 10**9
    stored = model.state.tables
    stored.jobs = dict(tables.jobs)
    stored.sessions = dict(tables.sessions)
    stored.approvals = [*tables.approvals.values()]
    stored.keys = [
        ModelKey(
            row.key, row.saved_at, row.fingerprint, row.token or -1, row.lease_until, row.completed, row.value
        )
        for row in tables.keys.values()
    ]
    stored.nonces = dict(tables.nonces)
    for name, row in tables.locks.items():
        holder = None if row.owner_id is None else Reference._as_lock(row)
        stored.locks[name] = ModelMutex(row.fence, holder)
    stored.events = [*tables.events.values()]
    stored.snapshots = dict(tables.snapshots)
    reference = Reference()
    reference.tables = tables
    stored.pauses = reference.pauses(world.today())
    for (collection, key), document in tables.documents.items():
        if collection == PAUSES:
            stored.pause_notes[key] = ModelPause(
                document.data["reason"], document.data["by"], document.updated_at
            )
    stored.pruned_at = tables.pruned_at
    return model


def compare(world: World, storage: Any, what: str, operation: Callable[[Any], Any]) -> Any:
    """Make the operation on the storage and on the model; return the storage's answer, or its error.

    Both must answer the same, and have changed the same. The caller is inside `world.atomic`.
    """
    model = model_of(world)
    before = world.tables
    # The reference changes its tables in place, outside a transaction.
    world.tables = before.copy()
    answer = _answer(storage, operation)
    expected = _answer(model, operation)
    old = _Known(before)
    if old.plain(answer) != old.plain(expected):
        raise Violation(
            f"{what} answered\n  {old.plain(answer)}\nand the model says\n  {old.plain(expected)}"
        )
    _compare_tables(what, old, before, world.tables, model)
    return answer


def _answer(api: Any, operation: Callable[[Any], Any]) -> Any:
    try:
        return operation(api)
    except (StorageError, Undone) as error:
        return error


class _Known:
    """Makes records comparable: the numbers of new ones, which each side chooses, become 0."""

    def __init__(self, before: Tables) -> None:
        self._jobs = before.jobs
        self._events = before.events
        self._approvals = {row.sequence for row in before.approvals.values()}

    def plain(self, value: Any) -> Any:
        if isinstance(value, StorageError):
            return type(value).__name__, [self.plain(each) for each in value.args[1:]]
        if isinstance(value, Undone):
            return "undone"
        if isinstance(value, Job):
            return dataclasses.replace(
                value,
                id=value.id if value.id in self._jobs else 0,
                last_error=_start(value.last_error),
                dead_letter_reason=_start(value.dead_letter_reason),
                attempts=tuple(
                    Attempt(each.number, each.at, each.worker_id, _start(each.error) or "")
                    for each in value.attempts
                ),
            )
        if isinstance(value, Event):
            return dataclasses.replace(value, id=value.id if value.id in self._events else 0)
        if isinstance(value, Approval):
            known = value.sequence in self._approvals
            return dataclasses.replace(value, sequence=value.sequence if known else 0)
        if isinstance(value, IdempotencyClaim):
            return dataclasses.replace(value, token=0)
        if isinstance(value, Settled):
            return self.plain(value.jobs), value.lost
        if isinstance(value, list | tuple):
            return [self.plain(each) for each in value]
        return value


def _start(text: str | None) -> str | None:
    for start in (EXPIRED, UNKNOWN, MISSED):
        if text is not None and text.startswith(start):
            return start
    return text


def _compare_tables(what: str, old: _Known, before: Tables, after: Tables, model: Model) -> None:
    stored = model.state.tables
    _compare_rows(what, old, before.jobs, after.jobs, stored.jobs)
    _compare_rows(what, old, before.sessions, after.sessions, stored.sessions)
    _compare_rows(what, old, before.snapshots, after.snapshots, stored.snapshots)
    approvals = {row.id: row for row in stored.approvals}
    _compare_rows(what, old, before.approvals, after.approvals, approvals)
    events = {row.id: row for row in stored.events}
    _compare_rows(what, old, before.events, after.events, events)
    if after.nonces != stored.nonces:
        raise Violation(f"{what} left the nonces {after.nonces}, not {stored.nonces}")
    locks = {
        name: (row.fence, None if row.owner_id is None else (row.owner_id, row.acquired_at, row.expires_at))
        for name, row in after.locks.items()
    }
    expected = {
        name: (
            mutex.fence,
            None
            if mutex.holder is None
            else (mutex.holder.owner_id, mutex.holder.acquired_at, mutex.holder.expires_at),
        )
        for name, mutex in stored.locks.items()
    }
    if locks != expected:
        raise Violation(f"{what} left the locks {locks}, not {expected}")
    keys = [
        (row.key, row.saved_at, row.fingerprint, row.lease_until, row.completed, row.value)
        for row in after.keys.values()
    ]
    wanted = [
        (row.key, row.saved_at, row.fingerprint, row.lease_until, row.completed, row.value)
        for row in stored.keys
    ]
    if keys != wanted:
        raise Violation(f"{what} left the keys {keys}, not {wanted}")


def _compare_rows(
    what: str, old: _Known, before: dict[Any, Any], after: dict[Any, Any], expected: dict[Any, Any]
) -> None:
    """Compare the rows that are not those of before."""
    changed = {key: row for key, row in after.items() if _differs(row, before.get(key))}
    wanted = {key: row for key, row in expected.items() if _differs(row, before.get(key))}
    gone = {key for key in before if key not in after}
    lost = {key for key in before if key not in expected}
    if gone != lost:
        raise Violation(f"{what} deleted {sorted(gone)}, not {sorted(lost)}")
    ours = {key: old.plain(row) for key, row in changed.items() if key in before}
    theirs = {key: old.plain(row) for key, row in wanted.items() if key in before}
    our_new = [old.plain(row) for key, row in changed.items() if key not in before]
    their_new = [old.plain(row) for key, row in wanted.items() if key not in before]
    if ours != theirs or our_new != their_new:
        raise Violation(f"{what} stored\n  {ours} {our_new}\nand the model says\n  {theirs} {their_new}")


def _differs(row: Any, before: Any) -> bool:
    return row is not before and row != before
