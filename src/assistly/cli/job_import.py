"""`assistly jobs import`."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistly.operations import audit
from assistly.operations.audit import Person

from .opening import opened
from .options import By, DryRun, Json, Note
from .output import Output, plural, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assistly.storage import Job, NewJob, Storage

_DURATIONS = ("min_gap", "max_lateness")
_GZIP = b"\x1f\x8b"
_INDEX = re.compile(r"jobs\[(\d+)\][. ]?(.*)", re.DOTALL)


class _DryRunEnds(Exception):
    """Undoes the transaction of a dry run."""


def import_jobs(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of JSON Lines, or - for stdin.")],
    dry_run: DryRun = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
) -> None:
    """Add all jobs of a JSON Lines file, or none: one JSON object per job.

    The fields of an object are platform, content, scheduled_at (such as "2026-03-01T09:00:00Z"; default:
    now), idempotency_key, metadata (an object), max_retries, and min_gap and max_lateness in seconds. Only
    platform and content are required. A job whose idempotency key is already stored is not added again.
    """
    out = Output(json=json)
    numbers, jobs = _parsed(_lines(file))
    with opened(out) as storage:
        stored, existed = _stored(storage, numbers, jobs, Person(by, note), dry_run=dry_run)
    ids = sorted({job.id for job in stored})
    if json:
        document: dict[str, Any] = {"action": "import", "dry_run": dry_run, "jobs": len(jobs)}
        out.document(document | {"existed": existed, "ids": [] if dry_run else ids})
        return
    done = "would be imported" if dry_run else "imported"
    added = len(ids) - existed
    others = len(jobs) - added  # those with the key of an earlier line, too
    keys = "its idempotency key" if others == 1 else "their idempotency keys"
    existing = f", {others} already stored under {keys}" if others else ""
    out.say(f"{plural(added, 'job')} {done}{existing}")
    without_key = sum(1 for job in jobs if job.idempotency_key is None)
    if without_key:
        jobs_without = plural(without_key, "job")
        out.remark(f"{jobs_without} without an idempotency key: importing the file again duplicates them")


def _lines(file: str) -> list[bytes]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror or error}", param_hint="FILE") from None
    if data.startswith(_GZIP):
        raise typer.BadParameter(
            f"{file} is compressed, not JSON Lines: `assistly import` loads a file of `assistly export`",
            param_hint="FILE",
        )
    return data.splitlines()


def _parsed(lines: list[bytes]) -> tuple[list[int], list[NewJob]]:
    """The jobs, and the number of the line of each."""
    numbers: list[int] = []
    jobs: list[NewJob] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            numbers.append(number)
            jobs.append(_job(number, line))
    return numbers, jobs


def _job(number: int, line: bytes) -> NewJob:
    import json
    from datetime import datetime

    from assistly.storage import InvalidValue, NewJob

    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        raise InvalidValue(f"line {number} is not UTF-8; nothing was imported") from None
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"line {number} is not JSON: {error}; nothing was imported") from None
    if not isinstance(value, dict):
        raise InvalidValue(f"line {number} is not a JSON object; nothing was imported")
    allowed = [field.name for field in fields(NewJob)]
    for name in value:
        if name not in allowed:
            wrong = shortened(repr(name), 40)
            raise InvalidValue(
                f"line {number}: unknown field {wrong}; known are {', '.join(allowed)}; nothing was imported"
            )
    for name in ("platform", "content"):
        if name not in value:
            raise InvalidValue(f"line {number}: {name} is missing; nothing was imported")
    for name in _DURATIONS:
        if value.get(name) is not None:
            value[name] = _seconds(number, name, value[name])
    at = value.get("scheduled_at")
    if at is not None:
        try:
            value["scheduled_at"] = datetime.fromisoformat(at)
        except (TypeError, ValueError):
            shown = shortened(repr(at), 40)
            raise InvalidValue(
                f"line {number}: scheduled_at must be a time such as 2026-03-01T09:00:00Z, not {shown}; "
                "nothing was imported"
            ) from None
    return NewJob(**value)


def _seconds(number: int, name: str, value: object) -> timedelta:
    from assistly.storage import InvalidValue

    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            pass
    shown = shortened(repr(value), 40)
    raise InvalidValue(
        f"line {number}: {name} must be a number of seconds, not {shown}; nothing was imported"
    )


def _stored(
    storage: Storage, numbers: list[int], jobs: list[NewJob], person: Person, *, dry_run: bool
) -> tuple[list[Job], int]:
    """Return the stored jobs, and how many of them already existed."""
    from assistly.operations.applying import atomically
    from assistly.storage import Conflict, InvalidValue

    result: tuple[list[Job], int] = ([], 0)

    def work(tx: Storage) -> None:
        nonlocal result
        keys = [job.idempotency_key for job in jobs if isinstance(job.idempotency_key, str)]
        existed = sum(tx.queue.find_by_key(key) is not None for key in set(keys) if key)
        stored = tx.queue.schedule_many(jobs)
        result = stored, existed
        if dry_run:
            raise _DryRunEnds
        if stored:
            ids = [job.id for job in stored]
            details = {"jobs": len(ids), "first": min(ids), "last": max(ids), "existed": existed}
            audit.record(tx, "jobs.import", person, **details)

    try:
        atomically(storage, work)
    except _DryRunEnds:
        pass
    except Conflict as error:
        index = _index_of_conflict(storage, jobs)
        where = "" if index is None else f"line {numbers[index]}: "
        raise Conflict(f"{where}{error}; nothing was imported") from None
    except InvalidValue as error:
        found = _INDEX.fullmatch(str(error))
        if found is None:
            raise
        raise InvalidValue(f"line {numbers[int(found[1])]}: {found[2]}; nothing was imported") from None
    return result


def _index_of_conflict(storage: Storage, jobs: list[NewJob]) -> int | None:
    """The index of the job that is refused when they are stored one by one. Stores nothing."""
    from assistly.storage import Conflict

    found: int | None = None
    try:
        with storage.transaction() as tx:
            for index in _one_by_one(tx, jobs):
                found = index
            found = None
            raise _DryRunEnds
    except (Conflict, _DryRunEnds):
        return found


def _one_by_one(tx: Storage, jobs: list[NewJob]) -> Iterator[int]:
    for index, job in enumerate(jobs):
        yield index
        tx.queue.schedule_many([job], returning="ids")
