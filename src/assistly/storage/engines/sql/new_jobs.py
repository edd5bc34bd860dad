"""Jobs made from what was sent and what is at hand already: the database is asked for the rest only."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from ...backend import JobDraft, Settlement
from ...records import Job, JobStatus, maker
from ...validation import EMPTY_OBJECT

make_job = maker(Job)
_NEVER_HELD = (None, None, None, None, None, None, 0, None, None, None)


def new_job(id: int, draft: JobDraft, now: datetime) -> Job:
    return make_job(
        id,
        JobStatus.SCHEDULED,
        draft.platform,
        draft.content,
        {} if draft.metadata == EMPTY_OBJECT else json.loads(draft.metadata),
        draft.scheduled_at,
        now,
        now,
        0,
        draft.max_retries,
        None,
        draft.scheduled_at,
        draft.idempotency_key,
        *_NEVER_HELD,
        draft.max_lateness,
        (),
    )


def posted_job(
    settlement: Settlement, now: datetime, publish_started_at: datetime | None, metadata: dict[str, Any]
) -> Job:
    job = settlement.job
    scheduled_at = job.scheduled_at
    return make_job(
        job.id,
        JobStatus.POSTED,
        job.platform,
        job.content,
        metadata,
        scheduled_at,
        job.created_at,
        now,
        job.retries,
        job.max_retries,
        None,
        scheduled_at,
        job.idempotency_key,
        settlement.remote_id,
        now,
        job.last_error,
        job.dead_letter_at,
        job.dead_letter_reason,
        job.replayed_at,
        job.claim,
        None,
        None,
        publish_started_at,
        job.max_lateness,
        job.attempts,
    )
