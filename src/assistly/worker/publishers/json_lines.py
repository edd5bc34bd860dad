"""The JSON form of a job that the built-in publishers send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage.records import Job, Json


def described(job: Job) -> dict[str, Json]:
    """The published fields of a job."""
    return {
        "id": job.id,
        "platform": job.platform,
        "content": job.content,
        "metadata": job.metadata,
        "scheduled_at": job.scheduled_at.isoformat(),
        "idempotency_key": job.idempotency_key,
    }


def as_line(job: Job, **more: Json) -> bytes:
    """The fields of a job, and `more`, as a line of JSON."""
    return json.dumps(described(job) | more, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
