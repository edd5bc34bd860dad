"""Rows: the stored form of a record, a tuple of plain values, with JSON as text. `JsonRows` encodes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from ...errors import StorageCorrupt
from ...records import Attempt, Job, JobStatus, Json, JsonValue
from ..values import IdempotencyRow, LockRow
from .ordered import Value

Row = tuple[Any, ...]

EMPTY_OBJECT = "{}"
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIELDS = tuple(field.name for field in fields(Job))
_METADATA = _FIELDS.index("metadata")
_PLATFORM = _FIELDS.index("platform")
_MIDDLE = slice(_METADATA + 1, -2)
_WITHOUT_CHECKPOINT = len(_FIELDS) - 1
"""The length of rows from before jobs had checkpoints."""
_STATUSES = {status: status for status in JobStatus}
_job: Callable[..., Job] = Job
_values_of_job = attrgetter(*_FIELDS)
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def json_text(value: Json) -> str:
    """The value as JSON, without sorting its keys."""
    return EMPTY_OBJECT if value == {} else _dumps(value)


def json_value(text: str) -> JsonValue:
    """The decoded value, a new object on each call."""
    return {} if text == EMPTY_OBJECT else json.loads(text)


def row_of_job(job: Job, metadata: str | None = None) -> Row:
    """The row of a job. `metadata` is its metadata as JSON, if the caller has it: that saves encoding."""
    values = _values_of_job(job)
    text = json_text(job.metadata) if metadata is None else metadata
    attempts = tuple((a.number, a.at, a.worker_id, a.error) for a in job.attempts)
    checkpoint = None if job.checkpoint is None else json_text(job.checkpoint)
    return (*values[:_METADATA], text, *values[_MIDDLE], attempts, checkpoint)


def job_of_row(row: Sequence[Any]) -> Job:
    """The job of a row, with new metadata on each call."""
    if len(row) == _WITHOUT_CHECKPOINT:
        row = (*row, None)
    id, status, platform, content, metadata, *others, attempts, text = row
    made = tuple(Attempt(*attempt) for attempt in attempts) if attempts else ()
    checkpoint = None if text is None else json_value(text)
    return _job(id, _STATUSES[status], platform, content, json_value(metadata), *others, made, checkpoint)


def metadata_of_row(row: Sequence[Any]) -> str:
    """The metadata of a stored job, as text."""
    text: str = row[_METADATA]
    return text


def platform_of_row(row: Sequence[Any]) -> str:
    """The platform of a stored job."""
    platform: str = row[_PLATFORM]
    return platform


def row_of_key(row: IdempotencyRow, sequence: int) -> Row:
    """The row of an idempotency key; `sequence` is its place in insertion order."""
    value = json_text(row.value) if row.completed else None
    return row.completed, value, row.saved_at, row.fingerprint, row.token, row.lease_until, sequence


def key_of_row(key: str, row: Sequence[Any]) -> IdempotencyRow:
    """The idempotency key of a row."""
    completed, value, saved_at, fingerprint, token, lease_until, _ = row
    return IdempotencyRow(
        key, completed, json_value(value) if completed else None, saved_at, fingerprint, token, lease_until
    )


def row_of_lock(row: LockRow) -> Row:
    """The row of a lock."""
    return row.owner_id, row.fence, row.acquired_at, row.expires_at


class ObjectRows:
    """For a store with `holds_objects`: a row is stored as it is."""

    @staticmethod
    def pack(row: Row) -> Value:
        """The value to store."""
        return row

    @staticmethod
    def unpack(value: Value) -> Sequence[Any]:
        """The row of a stored value."""
        row: Row = value
        return row


class JsonRows:
    """Stores rows as JSON. A time is {"t": microseconds since the year 1}, a duration {"d": microseconds}."""

    @staticmethod
    def pack(row: Row) -> Value:
        """The value to store."""
        return _encode_row(row).encode()

    @staticmethod
    def unpack(value: Value) -> Sequence[Any]:
        """The row of a stored value."""
        try:
            row: list[Any] = json.loads(value, object_hook=_decoded)
        except ValueError as error:
            raise StorageCorrupt(f"a stored row is not valid JSON ({error}): restore a backup") from error
        return row


def _encoded(value: object) -> dict[str, int]:
    if isinstance(value, datetime):
        return {"t": (value - _EARLIEST) // _MICROSECOND}
    assert isinstance(value, timedelta)  # noqa: S101 - there is nothing else in a row
    return {"d": value // _MICROSECOND}


def _decoded(member: dict[str, int]) -> datetime | timedelta:
    (kind, count), *_ = member.items()
    span = timedelta(microseconds=count)
    return _EARLIEST + span if kind == "t" else span


_encode_row = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), check_circular=False, default=_encoded
).encode
