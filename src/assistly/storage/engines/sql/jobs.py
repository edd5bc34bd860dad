from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from ...engine.values import JobDraft, JsonText, Settlement
from ...errors import StorageCorrupt
from ...records import Job, JobStatus
from .attempts import ATTEMPT_ERROR_LENGTH, decoded_attempt
from .claims import CLAIMED, claimed_jobs
from .database import Executor, Row
from .new_jobs import posted_job
from .store import SqlStore, to_microseconds

JOB_COLUMNS = ", ".join(field.name for field in fields(Job))
# Partial indexes serve a statement that repeats their condition as it is written there.
WAITING = "status IN ('scheduled', 'retrying')"
PROCESSING = "attention_at IS NOT NULL AND status = 'processing'"

_SELECT = f"SELECT {JOB_COLUMNS} FROM {{t}}queue_jobs"
_UPDATE = "UPDATE {t}queue_jobs SET"
_RETURNING = f"RETURNING {JOB_COLUMNS}"

INSERT = """
INSERT INTO {t}queue_jobs (
    status, platform, content, metadata, scheduled_at, due_at, created_at, updated_at, retries,
    max_retries, max_lateness, attention_at, idempotency_key
) VALUES (
    'scheduled', :platform, :content, :metadata{jsonb}, :scheduled_at, :scheduled_at, :now, :now, 0,
    :max_retries, :max_lateness, :scheduled_at{timestamp} + :max_lateness{bigint}{microseconds},
    :idempotency_key
)
"""
UNLESS_KEY_IS_TAKEN = "ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING"
_INSERT = f"{INSERT}{UNLESS_KEY_IS_TAKEN} {_RETURNING}"

_IN_WINDOW = f"""
{_SELECT}
WHERE {{active}} AND platform = :platform AND scheduled_at BETWEEN :earliest AND :latest
    AND id <> :exclude
ORDER BY scheduled_at, id LIMIT 1
"""

_BY_KEY = f"{_SELECT} WHERE idempotency_key = :idempotency_key"
_GET = f"{_SELECT} WHERE id = :id"
_GET_LOCKED = f"{_GET} {{for_update}}"

_RESCHEDULE = f"""
{_UPDATE} scheduled_at = :scheduled_at, due_at = :scheduled_at, next_retry_at = NULL,
    attention_at = :scheduled_at{{timestamp}} + max_lateness{{microseconds}},
    content = coalesce(:content{{text}}, content), metadata = coalesce(:metadata{{jsonb}}, metadata),
    updated_at = :now
WHERE id = :id AND {WAITING}
{_RETURNING}
"""

_COUNT_BACKLOG = f"""
SELECT status, count(*) FROM {{t}}queue_jobs WHERE {WAITING} GROUP BY status
UNION ALL SELECT 'processing', count(*) FROM {{t}}queue_jobs WHERE {PROCESSING}
UNION ALL SELECT 'dead_letter', count(*) FROM {{t}}queue_jobs WHERE status = 'dead_letter'
"""
_COUNTS = f"""{_COUNT_BACKLOG}
UNION ALL SELECT 'posted', count(*) FROM {{t}}queue_jobs WHERE status = 'posted'
"""

_REMOVE = "DELETE FROM {t}queue_jobs WHERE id = :id"
_NEXT_DUE = f"SELECT due_at FROM {{t}}queue_jobs WHERE {WAITING} ORDER BY due_at, id LIMIT 1"

_DUE = f"SELECT id FROM {{t}}queue_jobs WHERE {WAITING} AND due_at <= :now"


# Somebody has to look at a job though nobody asks for it once `attention_at` has come: when its lease
# runs out while it is held, when it becomes too late while it waits.
_IS_EXPIRED = "status = 'processing' AND attention_at <= :now"
_IS_LATE = "attention_at < :now"
_OF_PLATFORMS = {False: "", True: "AND platform {any_platform}"}


class ClaimVariant(NamedTuple):
    of_platforms: bool
    unless_overdue: bool


_CLAIM_VARIANTS = [ClaimVariant(*variant) for variant in product((False, True), repeat=2)]


def _claim_template(variant: ClaimVariant) -> str:
    of_platforms = _OF_PLATFORMS[variant.of_platforms]
    # Not with EXISTS: in the hope of a first row soon, that may become a scan of the table.
    swept = f"""
    AND (
        SELECT id FROM {{t}}queue_jobs
        WHERE attention_at <= :now
            AND (status = 'processing' OR {WAITING} AND due_at <= :now AND {_IS_LATE} {of_platforms})
        ORDER BY attention_at LIMIT 1
    ) IS NULL
"""
    return f"""
{_UPDATE} status = 'processing', claim = claim + 1, worker_id = :worker_id,
    lease_until = :lease_until, attention_at = :lease_until, updated_at = :now
WHERE id {{picked}}
    {_DUE} AND (attention_at IS NULL OR attention_at >= :now) {of_platforms}
    {swept.strip() if variant.unless_overdue else ""}
    ORDER BY due_at, id LIMIT {{limit}} {{skip_locked}}
{{end_picked}}
RETURNING {CLAIMED.strip()}
"""


def _bury_template(of_platforms: str) -> str:
    return f"""
{_UPDATE} status = 'dead_letter', dead_letter_at = :now, dead_letter_reason = :reason,
    next_retry_at = NULL, due_at = scheduled_at, attention_at = NULL, updated_at = :now
WHERE id {{picked}}
    {_DUE} AND {_IS_LATE} {of_platforms}
    ORDER BY attention_at LIMIT {{limit}} {{skip_locked}}
{{end_picked}}
"""


_CLAIM = {variant: _claim_template(variant) for variant in _CLAIM_VARIANTS}
_BURY_MISSED = {filtered: _bury_template(text) for filtered, text in _OF_PLATFORMS.items()}

_EXPIRED = f"""
{_SELECT} WHERE {_IS_EXPIRED}
ORDER BY attention_at, id LIMIT {{limit}}
"""

# In words that no plan can serve with the index of the active ones: to find a job there by its id takes
# a walk past all that were settled since the last vacuum.
HELD = "CASE status WHEN 'processing' THEN TRUE ELSE FALSE END"
_HELD = f"WHERE id = :id AND claim = :claim AND {HELD}"
_LEASED = f"{_HELD} AND lease_until > :now"
_EXTEND = f"""
{_UPDATE} lease_until = :lease_until, attention_at = :lease_until, updated_at = :now {_LEASED} {_RETURNING}
"""

_BEGIN_PUBLISH = f"""
{_UPDATE} publish_started_at = coalesce(publish_started_at, :now), updated_at = :now
{_LEASED} {_RETURNING}
"""

_LATE_AFTER = "scheduled_at + max_lateness{microseconds}"
RELEASED_STATUS = "CASE WHEN retries > 0 THEN 'retrying' ELSE 'scheduled' END"
_IS_FINAL = "(:final OR retries + 1 >= max_retries)"
_SETTLE = {
    "posted": """
status = 'posted', posted_at = :now, remote_id = :remote_id, next_retry_at = NULL,
    due_at = scheduled_at, attention_at = NULL
""",
    "failed": f"""
status = CASE WHEN {_IS_FINAL} THEN 'dead_letter' ELSE 'retrying' END,
    retries = retries + 1, last_error = :error, attempts = {{append_attempt}},
    next_retry_at = CASE WHEN {_IS_FINAL} THEN NULL ELSE :at{{timestamp}} END,
    due_at = CASE WHEN {_IS_FINAL} THEN scheduled_at ELSE coalesce(:at{{timestamp}}, scheduled_at) END,
    attention_at = CASE WHEN {_IS_FINAL} THEN NULL ELSE {_LATE_AFTER} END,
    dead_letter_at = CASE WHEN {_IS_FINAL} THEN :now{{timestamp}} ELSE dead_letter_at END,
    dead_letter_reason = CASE WHEN {_IS_FINAL} THEN :error{{text}} ELSE dead_letter_reason END,
    publish_started_at = CASE WHEN :keep_publish THEN publish_started_at END
""",
    "snoozed": f"""
status = {RELEASED_STATUS}, next_retry_at = :at, due_at = coalesce(:at{{timestamp}}, scheduled_at),
    attention_at = {_LATE_AFTER}, publish_started_at = NULL
""",
    "released": f"""
status = {RELEASED_STATUS}, attention_at = {_LATE_AFTER}, publish_started_at = NULL
""",
}
_UNHELD = "worker_id = NULL, lease_until = NULL, updated_at = :now"
# The rest of a posted job is as its holder has it.
_RETURNING_POSTED = "RETURNING id, claim, publish_started_at, nullif(metadata, '{}'{jsonb})"
SETTLE_HELD = {
    kind: f"{_UPDATE} {changes.strip()}, {_UNHELD} {_HELD} "
    f"{_RETURNING_POSTED if kind == 'posted' else _RETURNING}"
    for kind, changes in _SETTLE.items()
}
# Publishing may have begun since the caller saw the lease run out: then only who knows may settle.
SETTLE_EXPIRED = {
    "failed": f"""
{_UPDATE} {_SETTLE["failed"].strip()}, {_UNHELD}
{_HELD} AND lease_until <= :now AND (:keep_publish OR publish_started_at IS NULL)
{_RETURNING}
"""
}

_REPLAYED = """
status = 'scheduled', scheduled_at = :scheduled_at, due_at = :scheduled_at,
    attention_at = :scheduled_at{timestamp} + max_lateness{microseconds}, retries = 0,
    replayed_at = :now, updated_at = :now, next_retry_at = NULL, last_error = NULL,
    dead_letter_at = NULL, dead_letter_reason = NULL, publish_started_at = NULL
"""
_REPLAY = f"{_UPDATE} {_REPLAYED} WHERE id = :id AND status = 'dead_letter' {_RETURNING}"


def _replay_template(*, of_platform: bool, limited: bool) -> str:
    platform = "AND platform = :platform" if of_platform else ""
    return f"""
{_UPDATE} {_REPLAYED}
WHERE id {{picked}}
    SELECT id FROM {{t}}queue_jobs WHERE status = 'dead_letter' {platform}
    ORDER BY id {"LIMIT {limit}" if limited else ""} {{for_update}}
{{end_picked}}
"""


# Whatever the statistics say, these few are found by their index, and not by walking over the posted.
_FEW = {
    JobStatus.SCHEDULED: WAITING,
    JobStatus.RETRYING: WAITING,
    JobStatus.PROCESSING: PROCESSING,
}


def _list_template(status: JobStatus | None, *, of_platform: bool) -> str:
    platform = "AND platform = :platform" if of_platform else ""
    if status in _FEW:
        return f"""
{_SELECT} WHERE id {{picked}}
    SELECT id FROM {{t}}queue_jobs
    WHERE {_FEW[status]} AND status = '{status}' AND id + 0 > :after {platform}
    ORDER BY id + 0 LIMIT {{limit}}
{{end_picked}}
ORDER BY id
"""
    of_status = "" if status is None else f"AND status = '{status}'"
    return f"{_SELECT} WHERE id > :after {of_status} {platform} ORDER BY id LIMIT {{limit}}"


_LIST = {
    (status, of_platform): _list_template(status, of_platform=of_platform)
    for status in (None, *JobStatus)
    for of_platform in (False, True)
}
_REPLAY_MANY = {
    (of_platform, limited): _replay_template(of_platform=of_platform, limited=limited)
    for of_platform in (False, True)
    for limited in (False, True)
}
_STATUSES = {str(status): status for status in JobStatus}


class SqlJobStore(SqlStore, ABC):
    def insert(self, drafts: Sequence[JobDraft], *, now: datetime) -> Sequence[Job | None]:
        batch = [self._draft_params(draft, now) for draft in drafts]
        return [self._job_or_none(row) for row in self._each(_INSERT, batch)]

    def prepare_gap_checks(self) -> None: ...

    @abstractmethod
    def lock_platforms(self, platforms: Sequence[str]) -> None: ...

    def in_window(
        self, platform: str, earliest: datetime, latest: datetime, *, exclude: int | None = None
    ) -> Job | None:
        params = {
            "platform": platform,
            "earliest": self._bind(earliest),
            "latest": self._bind(latest),
            "exclude": 0 if exclude is None else exclude,
        }
        return self._read_one(_IN_WINDOW, params, self._job)

    def by_key(self, idempotency_key: str) -> Job | None:
        return self._read_one(_BY_KEY, {"idempotency_key": idempotency_key}, self._job)

    def get(self, id: int, *, lock: bool = False) -> Job | None:
        return self._read_one(_GET_LOCKED if lock else _GET, {"id": id}, self._job)

    def reschedule(
        self,
        id: int,
        scheduled_at: datetime,
        *,
        content: str | None,
        metadata: JsonText | None,
        now: datetime,
    ) -> Job | None:
        params = {
            "id": id,
            "scheduled_at": self._bind(scheduled_at),
            "content": content,
            "metadata": metadata,
            "now": self._bind(now),
        }
        return self._change_one(_RESCHEDULE, params, self._job)

    def list(
        self, *, status: JobStatus | None, platform: str | None, after: int, limit: int
    ) -> Sequence[Job]:
        params: dict[str, Any] = {"after": after}
        if platform is not None:
            params["platform"] = platform
        return self._read_all(_LIST[status, platform is not None], params, self._job, limit)

    def counts(self, *, posted: bool = True) -> dict[JobStatus, int]:
        template = _COUNTS if posted else _COUNT_BACKLOG
        return dict(self._read_all(template, {}, lambda row: (_STATUSES[row[0]], row[1])))

    def remove(self, id: int) -> bool:
        return self._change(_REMOVE, {"id": id}) > 0

    def next_due_at(self) -> datetime | None:
        return self._read_one(_NEXT_DUE, {}, lambda row: self._time(row[0]))

    def claim(
        self,
        *,
        worker_id: str,
        limit: int,
        lease_until: datetime,
        platforms: Sequence[str] | None,
        now: datetime,
        unless_overdue: bool = False,
    ) -> Sequence[Job]:
        statement = self._render(_CLAIM[ClaimVariant(platforms is not None, unless_overdue)], limit)
        params = {
            "worker_id": worker_id,
            "lease_until": self._bind(lease_until),
            "now": self._bind(now),
            **self._of_platforms(platforms),
        }
        rows = self._database.autocommit(lambda connection: connection.rows(statement, params))
        self._note_claimed(len(rows))
        # By (due_at, id), which they begin with.
        rows.sort()
        return claimed_jobs(rows, worker_id, lease_until, now, self._time, self._json)

    def dead_letter_late(self, *, limit: int, platforms: Sequence[str] | None, reason: str, now: datetime) -> int:
        params = {"reason": reason, "now": self._bind(now), **self._of_platforms(platforms)}
        return self._change(_BURY_MISSED[platforms is not None], params, limit)

    def expired(self, *, limit: int, now: datetime) -> Sequence[Job]:
        return self._read_all(_EXPIRED, {"now": self._bind(now)}, self._job, limit)

    def extend(
        self, claims: Sequence[tuple[int, int]], *, lease_until: datetime, now: datetime
    ) -> Sequence[Job]:
        times = {"lease_until": self._bind(lease_until), "now": self._bind(now)}
        batch = [{"id": id, "claim": claim, **times} for id, claim in sorted(set(claims))]
        return [self._job(row) for row in self._each(_EXTEND, batch) if row is not None]

    def begin_publish(self, id: int, claim: int, *, now: datetime) -> Job | None:
        params = {"id": id, "claim": claim, "now": self._bind(now)}
        return self._change_one(_BEGIN_PUBLISH, params, self._job)

    def settle(
        self, settlements: Sequence[Settlement], *, now: datetime, expired_only: bool = False
    ) -> Sequence[Job | None]:
        templates = SETTLE_EXPIRED if expired_only else SETTLE_HELD
        if len(settlements) == 1:
            (one,) = settlements
            decode = partial(self._settled, one, now)
            return [self._change_one(templates[one.kind], self._outcome(one, now), decode)]
        by_id = sorted(range(len(settlements)), key=lambda index: settlements[index].id)
        steps = [
            (index, self._render(templates[settlements[index].kind]), self._outcome(settlements[index], now))
            for index in by_id
        ]

        def work(connection: Executor) -> dict[int, Row | None]:
            return {index: connection.row(statement, params) for index, statement, params in steps}

        rows = self._database.in_transaction(work)
        found = [rows[index] for index in range(len(settlements))]
        return [
            None if row is None else self._settled(one, now, row)
            for one, row in zip(settlements, found, strict=True)
        ]

    def replay(self, id: int, scheduled_at: datetime, *, now: datetime) -> Job | None:
        params = {"id": id, "scheduled_at": self._bind(scheduled_at), "now": self._bind(now)}
        return self._change_one(_REPLAY, params, self._job)

    def replay_many(
        self, *, platform: str | None, limit: int | None, scheduled_at: datetime, now: datetime
    ) -> int:
        template = _REPLAY_MANY[platform is not None, limit is not None]
        params = {"scheduled_at": self._bind(scheduled_at), "now": self._bind(now)}
        if platform is not None:
            params["platform"] = platform
        return self._change(template, params, limit)

    def wait(self, timeout: float) -> datetime | None:
        return self._database.wait(timeout)

    def _note_claimed(self, jobs: int) -> None:
        """For an engine that has to clean up after claims. It must not fail: they are made."""

    def _draft_params(self, draft: JobDraft, now: datetime) -> dict[str, Any]:
        return {
            "platform": draft.platform,
            "content": draft.content,
            "metadata": draft.metadata,
            "scheduled_at": self._bind(draft.scheduled_at),
            "max_retries": draft.max_retries,
            "max_lateness": in_microseconds(draft.max_lateness),
            "idempotency_key": draft.idempotency_key,
            "now": self._bind(now),
        }

    def _outcome(self, settlement: Settlement, now: datetime) -> dict[str, Any]:
        params: dict[str, Any] = {
            "id": settlement.id,
            "claim": settlement.claim,
            "now": self._bind(now),
        }
        if settlement.kind == "posted":
            params["remote_id"] = settlement.remote_id
        elif settlement.kind == "snoozed":
            params["at"] = self._bind(settlement.at)
        elif settlement.kind == "failed":
            params.update(
                error=settlement.error,
                attempt_error=settlement.error[:ATTEMPT_ERROR_LENGTH],
                now_us=to_microseconds(now),
                at=self._bind(settlement.at),
                final=settlement.final,
                keep_publish=settlement.keep_publish,
            )
        return params

    def _settled(self, settlement: Settlement, now: datetime, row: Row) -> Job:
        if settlement.kind != "posted":
            return self._job(row)
        _, _, publish_started_at, metadata = row
        return posted_job(
            settlement, now, self._time(publish_started_at), {} if metadata is None else self._json(metadata)
        )

    def _of_platforms(self, platforms: Sequence[str] | None) -> dict[str, Any]:
        return {} if platforms is None else {"platforms": self._bind_list(platforms)}

    def _job_or_none(self, row: Row | None) -> Job | None:
        return None if row is None else self._job(row)

    def _job(self, row: Row) -> Job:
        (
            id, status, platform, content, metadata, scheduled_at, created_at, updated_at, retries,
            max_retries, next_retry_at, due_at, idempotency_key, remote_id, posted_at, last_error,
            dead_letter_at, dead_letter_reason, replayed_at, claim, worker_id, lease_until,
            publish_started_at, max_lateness, attempts,
        ) = row  # fmt: skip
        known = known_status(id, status)
        time = self._time
        return Job(
            id=id,
            status=known,
            platform=platform,
            content=content,
            metadata=self._json(metadata),
            scheduled_at=time(scheduled_at),
            created_at=time(created_at),
            updated_at=time(updated_at),
            retries=retries,
            max_retries=max_retries,
            next_retry_at=time(next_retry_at),
            due_at=time(due_at),
            idempotency_key=idempotency_key,
            remote_id=remote_id,
            posted_at=time(posted_at),
            last_error=last_error,
            dead_letter_at=time(dead_letter_at),
            dead_letter_reason=dead_letter_reason,
            replayed_at=time(replayed_at),
            claim=claim,
            worker_id=worker_id,
            lease_until=time(lease_until),
            publish_started_at=time(publish_started_at),
            max_lateness=None if max_lateness is None else timedelta(microseconds=max_lateness),
            attempts=tuple(map(decoded_attempt, self._json(attempts))),
        )


def known_status(id: int, status: str) -> JobStatus:
    known = _STATUSES.get(status)
    if known is None:
        raise StorageCorrupt(f"the job {id} has the status {status!r}, which is none of the queue's")
    return known


def in_microseconds(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // timedelta(microseconds=1)
