"""Scheduling, idempotency keys and batches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import IdempotencyMismatch, InvalidValue, ScheduleConflict
from ..records import TRACE_CONTEXT, Job, JobStatus, Json, NewJob
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    MINUTE,
    START,
    TICK,
    Contract,
    FakeClock,
    dead,
    empty,
    examples,
    posted,
)
from .strategies import contents, json_objects, moments, names, spelled, stored


class QueueSchedulingContract(Contract):
    def test_a_new_job_has_every_field(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "hello", START + HOUR)
        assert type(job) is Job
        assert type(job.id) is int
        assert job == Job(
            id=job.id,
            status=JobStatus.SCHEDULED,
            platform="x",
            content="hello",
            metadata={},
            scheduled_at=START + HOUR,
            created_at=START,
            updated_at=START,
            retries=0,
            max_retries=3,
            next_retry_at=None,
            due_at=START + HOUR,
            idempotency_key=None,
            remote_id=None,
            posted_at=None,
            last_error=None,
            dead_letter_at=None,
            dead_letter_reason=None,
            replayed_at=None,
            claim=job.claim,
            worker_id=None,
            lease_until=None,
            publish_started_at=None,
            max_lateness=None,
            attempts=(),
        )
        assert type(job.status) is JobStatus
        assert type(job.claim) is int
        assert storage.queue.get(job.id) == job

    def test_all_arguments_are_kept(self, storage: Storage) -> None:
        job = storage.queue.schedule(
            "x",
            "hello",
            START - DAY,
            idempotency_key="key",
            metadata={"tags": ["a", 1, 1.0, True, None]},
            max_retries=7,
            max_lateness=timedelta(days=2, microseconds=1),
            now=START + 2 * DAY,
        )
        assert (job.idempotency_key, job.max_retries) == ("key", 7)
        assert job.max_lateness == timedelta(days=2, microseconds=1)
        assert spelled(job.metadata) == spelled({"tags": ["a", 1, 1.0, True, None]})
        assert job.scheduled_at == job.due_at == START - DAY
        assert job.created_at == job.updated_at == START + 2 * DAY
        assert storage.queue.get(job.id) == job

    def test_without_a_time_a_job_is_due_now(self, storage: Storage, clock: FakeClock) -> None:
        clock.advance(TICK)
        assert storage.queue.schedule("x", "a").scheduled_at == START + TICK
        assert storage.queue.schedule("x", "b", now=START + HOUR).scheduled_at == START + HOUR

    def test_ids_grow_and_are_not_used_again(self, storage: Storage) -> None:
        first, second = storage.queue.schedule("x", "a"), storage.queue.schedule("x", "b")
        assert first.id < second.id
        assert storage.queue.remove(second.id)
        assert storage.queue.schedule("x", "c").id > second.id

    def test_metadata_is_a_copy_both_ways(self, storage: Storage) -> None:
        metadata: dict[str, Any] = {"list": [1]}
        job = storage.queue.schedule("x", "a", metadata=metadata)
        metadata["list"].append(2)
        job.metadata["list"].append(3)
        read = storage.queue.get(job.id)
        assert read is not None
        assert read.metadata == {"list": [1]}
        read.metadata["list"].append(4)
        (listed,) = storage.queue.list()
        assert listed.metadata == {"list": [1]}

    @pytest.mark.parametrize("metadata", [[], "text", 1, True, [("a", 1)]])
    def test_metadata_must_be_an_object(self, storage: Storage, metadata: Any) -> None:
        with pytest.raises(InvalidValue, match="metadata"):
            storage.queue.schedule("x", "a", metadata=metadata)
        assert storage.queue.list() == []

    @pytest.mark.parametrize("max_retries", [0, -1, True, 1.0, "3"])
    def test_max_retries_is_an_int_from_one(self, storage: Storage, max_retries: Any) -> None:
        with pytest.raises(InvalidValue, match="max_retries"):
            storage.queue.schedule("x", "a", max_retries=max_retries)
        assert storage.queue.list() == []
        assert storage.queue.schedule("x", "a", max_retries=1).max_retries == 1

    @pytest.mark.parametrize("max_lateness", [-TICK, 0, 60, 1.5, "1h"])
    def test_max_lateness_is_a_timedelta_from_zero(self, storage: Storage, max_lateness: Any) -> None:
        with pytest.raises(InvalidValue, match="max_lateness"):
            storage.queue.schedule("x", "a", max_lateness=max_lateness)
        assert storage.queue.list() == []
        assert storage.queue.schedule("x", "a", max_lateness=timedelta(0)).max_lateness == timedelta(0)

    @given(
        names,
        contents,
        moments,
        moments,
        json_objects(),
        st.timedeltas(min_value=timedelta(0), max_value=9999 * DAY),
    )
    @examples(25)
    def test_every_job_comes_back_equal(
        self,
        backend: StorageBackend,
        storage: Storage,
        platform: str,
        content: str,
        scheduled_at: Any,
        now: Any,
        metadata: dict[str, Any],
        max_lateness: timedelta,
    ) -> None:
        empty(backend)
        job = storage.queue.schedule(
            platform,
            content,
            scheduled_at,
            idempotency_key=platform,
            metadata=metadata,
            max_lateness=max_lateness,
            now=now,
        )
        (listed,) = storage.queue.list(platform=platform)
        assert job == listed == storage.queue.get(job.id)
        assert (listed.platform, listed.content, listed.idempotency_key) == (platform, content, platform)
        assert (listed.scheduled_at, listed.created_at) == (scheduled_at, now)
        assert listed.max_lateness == max_lateness
        assert spelled(listed.metadata) == spelled(job.metadata) == spelled(stored(metadata))


class QueueKeysContract(Contract):
    """One job for an idempotency key, as long as that job is stored."""

    def test_the_stored_job_is_returned(self, storage: Storage, clock: FakeClock) -> None:
        job = storage.queue.schedule("x", "a", idempotency_key="key", metadata={"b": 1, "a": [2]})
        clock.advance(HOUR)
        again = storage.queue.schedule("x", "a", idempotency_key="key", metadata={"a": [2], "b": 1})
        assert again == job
        assert storage.queue.list() == [job]

    def test_a_job_is_found_by_its_key(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", idempotency_key="key")
        storage.queue.schedule("x", "b")
        assert storage.queue.find_by_key("key") == job
        assert storage.queue.find_by_key("other") is None
        storage.queue.remove(job.id)
        assert storage.queue.find_by_key("key") is None

    def test_the_time_is_not_compared(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START, idempotency_key="key")
        assert storage.queue.schedule("x", "a", START + DAY, idempotency_key="key") == job

    @pytest.mark.parametrize(
        "other", [{"platform": "y"}, {"content": "b"}, {"metadata": {"n": 2}}, {"metadata": None}]
    )
    def test_another_job_under_the_key_is_refused(self, storage: Storage, other: dict[str, Any]) -> None:
        fields: dict[str, Any] = {"platform": "x", "content": "a", "metadata": {"n": 1}}
        job = storage.queue.schedule(**fields, idempotency_key="key")
        with pytest.raises(IdempotencyMismatch) as caught:
            storage.queue.schedule(**{**fields, **other}, idempotency_key="key")
        assert caught.value.key == "key"
        assert storage.queue.list() == [job]

    def test_the_trace_context_is_not_compared(self, storage: Storage) -> None:
        one, other = ({TRACE_CONTEXT: {"traceparent": f"00-{digit * 32}-{digit * 16}-01"}} for digit in "12")
        job = storage.queue.schedule("x", "a", idempotency_key="key", metadata={"n": 1, **one})
        assert job.metadata == {"n": 1, **one}
        others: list[dict[str, Json]] = [{"n": 1, **other}, {"n": 1, TRACE_CONTEXT: 7}, {"n": 1}]
        for metadata in others:
            assert storage.queue.schedule("x", "a", idempotency_key="key", metadata=metadata) == job
            new = NewJob("x", "a", idempotency_key="key", metadata=metadata)
            assert storage.queue.schedule_many([new, new]) == [job, job]
        plain = storage.queue.schedule("x", "a", idempotency_key="plain")
        assert storage.queue.schedule("x", "a", idempotency_key="plain", metadata=one) == plain

    @pytest.mark.parametrize("other", [{}, {"n": 1.0}, {"n": True}, {"n": 1, "assistly": {}}])
    def test_other_metadata_is_compared_beside_a_trace_context(
        self, storage: Storage, other: dict[str, Any]
    ) -> None:
        trace = {TRACE_CONTEXT: {"traceparent": "1"}}
        storage.queue.schedule("x", "a", idempotency_key="key", metadata={"n": 1, **trace})
        for metadata in (other, {**other, **trace}):
            with pytest.raises(IdempotencyMismatch):
                storage.queue.schedule("x", "a", idempotency_key="key", metadata=metadata)

    def test_no_metadata_is_an_empty_object(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", idempotency_key="key", metadata={})
        assert storage.queue.schedule("x", "a", idempotency_key="key") == job

    def test_the_key_stays_with_a_finished_job(self, storage: Storage) -> None:
        done = posted(storage, idempotency_key="done")
        buried = dead(storage, idempotency_key="dead")
        assert storage.queue.schedule("x", "hello", idempotency_key="done") == done
        assert storage.queue.schedule("x", "hello", idempotency_key="dead") == buried

    def test_the_key_is_free_once_the_job_is_removed(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", idempotency_key="key")
        storage.queue.remove(job.id)
        again = storage.queue.schedule("y", "b", idempotency_key="key")
        assert again.id != job.id
        assert storage.queue.list() == [again]

    def test_a_job_is_not_in_its_own_way(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", START, idempotency_key="key", min_gap=HOUR)
        assert storage.queue.schedule("x", "a", START, idempotency_key="key", min_gap=HOUR) == job

    def test_the_key_is_looked_up_before_the_gap(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START, idempotency_key="key")
        with pytest.raises(IdempotencyMismatch):
            storage.queue.schedule("x", "b", START, idempotency_key="key", min_gap=HOUR)

    def test_the_content_is_compared_after_a_reschedule(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", idempotency_key="key")
        moved = storage.queue.reschedule(job.id, START + HOUR, content="b")
        assert storage.queue.schedule("x", "b", idempotency_key="key") == moved
        with pytest.raises(IdempotencyMismatch):
            storage.queue.schedule("x", "a", idempotency_key="key")

    def test_keys_differ_by_every_character(self, storage: Storage) -> None:
        keys = ["key", "KEY", "key ", "\u00e9", "e\u0301", "kéy", "\ufb01", "fi"]
        jobs = [storage.queue.schedule("x", "a", idempotency_key=key) for key in keys]
        assert len({job.id for job in jobs}) == len(keys)

    def test_one_key_in_one_batch_is_one_job(self, storage: Storage) -> None:
        jobs = storage.queue.schedule_many(
            [
                NewJob("x", "a", START, idempotency_key="key"),
                NewJob("x", "b", START),
                NewJob("x", "a", START + HOUR, idempotency_key="key"),
            ]
        )
        assert jobs[0] == jobs[2]
        assert storage.queue.list() == jobs[:2]

    def test_a_batch_meets_stored_keys(self, storage: Storage) -> None:
        job = storage.queue.schedule("x", "a", idempotency_key="key")
        jobs = storage.queue.schedule_many([NewJob("x", "b"), NewJob("x", "a", idempotency_key="key")])
        assert jobs[1] == job
        assert len(storage.queue.list()) == 2

    def test_a_mismatch_in_a_batch_writes_nothing(self, storage: Storage) -> None:
        with pytest.raises(IdempotencyMismatch) as caught:
            storage.queue.schedule_many(
                [
                    NewJob("x", "a"),
                    NewJob("x", "a", idempotency_key="key"),
                    NewJob("x", "b", idempotency_key="key"),
                ]
            )
        assert caught.value.key == "key"
        assert storage.queue.list() == []


class QueueBatchesContract(Contract):
    def test_jobs_come_back_in_input_order(self, storage: Storage) -> None:
        times = [START + (7 * n % 10) * MINUTE for n in range(120)]
        jobs = storage.queue.schedule_many(
            NewJob(f"p{n % 3}", f"content {n}", time, metadata={"n": n}) for n, time in enumerate(times)
        )
        assert type(jobs) is list
        assert [job.content for job in jobs] == [f"content {n}" for n in range(120)]
        assert [job.metadata for job in jobs] == [{"n": n} for n in range(120)]
        assert [job.scheduled_at for job in jobs] == times
        assert [job.id for job in jobs] == sorted(job.id for job in jobs)
        assert storage.queue.list(limit=1000) == jobs

    def test_defaults_are_those_of_schedule(self, storage: Storage) -> None:
        (job,) = storage.queue.schedule_many([NewJob("x", "a")], now=START + HOUR)
        assert job.scheduled_at == job.created_at == job.updated_at == START + HOUR
        assert (job.max_retries, job.max_lateness, job.metadata) == (3, None, {})
        (other,) = storage.queue.schedule_many(
            [NewJob("x", "a", START, max_retries=1, max_lateness=HOUR, metadata={"a": 1})]
        )
        assert (other.max_retries, other.max_lateness, other.metadata) == (1, HOUR, {"a": 1})

    def test_an_empty_batch_is_nothing(self, storage: Storage) -> None:
        assert storage.queue.schedule_many([]) == []
        assert storage.queue.list() == []

    @pytest.mark.parametrize(
        "bad",
        [
            NewJob("", "a"),
            NewJob("x", "a\x00"),
            NewJob("x", "a", START.replace(tzinfo=None)),
            NewJob("x", "a", metadata={"n": float("nan")}),
            NewJob("x", "a", max_retries=0),
            NewJob("x", "a", min_gap=-TICK),
            NewJob("x", "a", idempotency_key=""),
        ],
    )
    def test_one_bad_job_and_nothing_is_written(self, storage: Storage, bad: NewJob) -> None:
        with pytest.raises(InvalidValue):
            storage.queue.schedule_many([NewJob("x", "a"), bad, NewJob("x", "b")])
        assert storage.queue.list() == []

    @pytest.mark.parametrize(
        "bad",
        [
            NewJob("x", "a\x00"),
            NewJob("x", "a" * 2**20 + "a"),
            NewJob("x", "a", START.replace(tzinfo=None)),
            NewJob("x", "a", metadata={"n": float("nan")}),
            NewJob("x", "a", max_retries=0),
            NewJob("x", "a", max_lateness=-TICK),
            NewJob("x", "a", min_gap=-TICK),
            NewJob("x", "a", idempotency_key=""),
            "no job",
        ],
    )
    def test_nothing_of_a_long_batch_is_written_before_a_bad_job(self, storage: Storage, bad: Any) -> None:
        job = storage.queue.schedule("x", "other")
        batch = [*[NewJob("x", "a")] * 1200, bad]
        with pytest.raises(InvalidValue, match=r"^jobs\[1200\]"):
            storage.queue.schedule_many(batch)
        with storage.transaction() as tx:
            second = tx.queue.schedule("x", "second")
            with pytest.raises(InvalidValue):
                tx.queue.schedule_many(batch)
            third = tx.queue.schedule("x", "third")
        assert storage.queue.list() == [job, second, third]

    @pytest.mark.parametrize("size", [1, 2, 120])
    def test_jobs_of_a_batch_may_be_late_for_as_long_as_others(
        self, storage: Storage, clock: FakeClock, size: int
    ) -> None:
        """The time after which a job is late is stored beside its lateness, and cannot be read."""
        jobs = storage.queue.schedule_many(NewJob("x", "a", START, max_lateness=HOUR) for _ in range(size))
        late = storage.queue.schedule_many(
            NewJob("y", "a", START - TICK, max_lateness=HOUR) for _ in range(size)
        )
        clock.advance(HOUR)
        claimed = storage.queue.claim_due(worker_id="w", limit=1000)
        storage.queue.claim_due(worker_id="w")
        assert [job.id for job in claimed] == [job.id for job in jobs]
        assert [job.id for job in storage.queue.dead_letters(limit=1000)] == [job.id for job in late]

    def test_jobs_of_a_long_batch_differ_where_their_new_jobs_do(self, storage: Storage) -> None:
        different: dict[int, dict[str, Any]] = {
            300: {"platform": "y"},
            601: {"max_retries": 7},
            602: {"scheduled_at": START + HOUR},
            603: {"scheduled_at": START + 2 * HOUR},
            700: {"metadata": {}},
            701: {"metadata": {"a": [1]}},
            703: {"max_lateness": HOUR},
            704: {"max_lateness": HOUR, "metadata": {"b": 1}},
            1100: {"platform": "y", "content": "ä"},
        }
        usual: dict[str, Any] = {
            "platform": "x",
            "scheduled_at": None,
            "max_retries": 3,
            "metadata": {},
            "max_lateness": None,
        }
        new = [
            NewJob(**{"platform": "x", "content": f"content {n}"} | different.get(n, {})) for n in range(1200)
        ]
        jobs = storage.queue.schedule_many(new, now=START)
        for n, job in enumerate(jobs):
            expected = usual | {"scheduled_at": START, "content": f"content {n}"} | different.get(n, {})
            assert {name: getattr(job, name) for name in expected} == expected
            assert (job.created_at, job.due_at) == (START, job.scheduled_at)
        first = storage.queue.list(limit=1000)
        assert [*first, *storage.queue.list(after=first[-1], limit=1000)] == jobs

    def test_no_two_jobs_of_a_batch_share_what_can_be_changed(self, storage: Storage) -> None:
        metadata: dict[str, Any] = {"a": 1}
        jobs = storage.queue.schedule_many(
            [NewJob("x", "a", metadata=metadata), NewJob("x", "b", metadata=metadata)]
            + [NewJob("x", "c")] * 200
        )
        assert len({id(job.metadata) for job in jobs}) == len(jobs)
        metadata["a"] = 2
        jobs[1].metadata["a"] = 3
        assert jobs[0].metadata == {"a": 1}

    def test_keys_in_the_middle_of_a_long_batch(self, storage: Storage) -> None:
        stored = storage.queue.schedule("x", "a", START, idempotency_key="stored")
        keys = {700: "stored", 701: "new", 702: "new", 1301: "later"}
        jobs = storage.queue.schedule_many(
            NewJob("x", "a" if n in keys else f"content {n}", START, idempotency_key=keys.get(n))
            for n in range(1400)
        )
        assert jobs[700] == stored
        assert jobs[701] == jobs[702]
        new = jobs[:700] + jobs[701:702] + jobs[703:]
        assert [job.content for job in new[:700] + new[701:900]] == [
            f"content {n}" for n in range(902) if n not in keys
        ]
        first = storage.queue.list(limit=1000)
        assert [*first, *storage.queue.list(after=first[-1], limit=1000)] == [stored, *new]

    @pytest.mark.parametrize("jobs", [None, 1, NewJob("x", "a"), ["x"], [("x", "a")], [None]])
    def test_only_new_jobs_are_taken(self, storage: Storage, jobs: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.queue.schedule_many(jobs)
        assert storage.queue.list() == []

    def test_a_conflict_in_a_batch_writes_nothing(self, storage: Storage) -> None:
        other = storage.queue.schedule("x", "other", START)
        with pytest.raises(ScheduleConflict) as caught:
            storage.queue.schedule_many(
                [NewJob("x", "a", START + DAY), NewJob("x", "b", START + MINUTE, min_gap=HOUR)]
            )
        assert caught.value.job == other
        assert storage.queue.list() == [other]

    def test_jobs_of_one_batch_keep_their_gap(self, storage: Storage) -> None:
        with pytest.raises(ScheduleConflict):
            storage.queue.schedule_many(
                [NewJob("x", "a", START), NewJob("x", "b", START + HOUR - TICK, min_gap=HOUR)]
            )
        assert storage.queue.list() == []
        jobs = storage.queue.schedule_many(
            [NewJob("x", "a", START, min_gap=HOUR), NewJob("x", "b", START + HOUR, min_gap=HOUR)]
        )
        assert storage.queue.list() == jobs
