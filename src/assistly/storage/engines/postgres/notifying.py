"""What those who wait for jobs are told, and the statements that tell it."""

from __future__ import annotations

import hashlib
from datetime import datetime

from ..sql.jobs import WAITING
from ..sql.store import from_microseconds, to_microseconds

ANY_TIME = ""
"""Several of these in one transaction are delivered once."""

NOTIFY = "SELECT pg_notify(%(channel)s, %(payload)s)"

_HEAD = f"SELECT due_at, id FROM {{t}}queue_jobs WHERE {WAITING} ORDER BY due_at, id LIMIT 1"

# Once the announced job is taken, nobody else will speak for those behind it.
NOTIFY_IF_FIRST = f"""
SELECT pg_notify(:channel, (extract(epoch FROM head.due_at) * 1000000)::bigint::text)
FROM ({_HEAD}) AS head
WHERE head.due_at <= :now{{timestamp}} + interval '10 seconds' AND (
    (head.due_at, head.id) >= (:due_at, :id)
    OR NOT EXISTS (SELECT FROM {{t}}queue_jobs WHERE id = :id AND {WAITING})
)
"""

# After the id of a new job, whether the statement told of it. It does where that holds up nobody: no
# job was due before, no other transaction is telling just now (they wait for each other until their
# commits are on disk), and the server has room for more.
TOLD = f"""
CASE
    WHEN (SELECT due_at FROM ({_HEAD}) AS head WHERE due_at <= :now) IS NULL
        AND pg_notification_queue_usage() < 0.5 AND pg_try_advisory_xact_lock(:teller)
    THEN pg_notify(:channel, :payload) IS NOT NULL
    ELSE FALSE
END
"""


def channel(schema: str) -> str:
    """Of a length that Postgres takes, whatever the schema is called."""
    return f"assistly_jobs_{hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()}"


def payload(due_at: datetime) -> str:
    return str(to_microseconds(due_at))


def told_time(payload: str) -> datetime | None:
    """None if it is not a job's time, and somebody has to look."""
    try:
        return from_microseconds(int(payload))
    except (ValueError, OverflowError):
        return None
