"""New jobs, made from what was stored: the database is asked for their ids only."""

from __future__ import annotations

import json
from datetime import datetime

from ...backend import JobDraft
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
