"""What people change on the page: it leaves the events that the operations leave, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from assistly.operations import applying, approvals, job_changes, platforms, schedules
from assistly.operations.audit import Person
from assistly.storage import Job, MemoryBackend, Storage
from assistly.storage.testing.fixtures import START, FakeClock
from assistly.web import Visitor, create_app
from assistly.web.pages import jobs as jobs_page
from web.browsing import Browser, Document
from web.filling import HOUR, Filled, claim, dead_letter, fill, fingerprint, operator_events, unknown_outcome

ANN = Person("ann", "the text is wrong")
AT = datetime(2099, 1, 1, 12, tzinfo=UTC)


def ann(_: Request) -> Visitor:
    return Visitor("ann", may_change=True)


def at_page(storage: Storage) -> Browser:
    return Browser(create_app(storage, allow_changes=True, authorize=ann, zone="UTC"))


def job_of(storage: Storage, id: int) -> Job:
    job = storage.queue.get(id)
    assert job is not None
    return job


def to_job(
    name: str, verb: str, make: Callable[[], job_changes.JobChange], **fields: str
) -> tuple[Callable[[Filled], tuple[str, str, dict[str, str]]], Callable[[Storage, Filled], object]]:
    def form(found: Filled) -> tuple[str, str, dict[str, str]]:
        id = getattr(found, name).id
        return f"/jobs/{id}", f"/jobs/{id}/{verb}", fields

    def operate(storage: Storage, found: Filled) -> object:
        job = getattr(found, name)
        return applying.change_job(storage, make(), job.id, ANN, seen=job.claim)

    return form, operate


LIMIT = {"platform": "dead", "count": "5", "per": "2", "unit": "hours"}
OPERATIONS: dict[str, Any] = {
    "cancel": to_job("waiting", "cancel", job_changes.cancel),
    "cancel a claimed one": to_job("claimed", "cancel", job_changes.cancel),
    "move": to_job("waiting", "move", lambda: job_changes.move(lambda _: AT), at="2099-01-01T12:00"),
    "replay": to_job("dead", "replay", job_changes.replay),
    "replay then": to_job("cancelled", "replay", lambda: job_changes.replay(at=AT), at="2099-01-01T12:00"),
    "posted": to_job(
        "unknown",
        "resolve",
        lambda: job_changes.resolve(posted=True, remote_id="17"),
        posted="yes",
        remote_id="17",
    ),
    "not posted": to_job("unknown", "resolve", lambda: job_changes.resolve(posted=False), posted="no"),
    "remove": to_job("posted", "remove", job_changes.remove, sure="1"),
    "remove a dead letter": to_job("dead", "remove", job_changes.remove, sure="1"),
    "approve": (
        lambda _: ("/approvals", "/approval", {"decision": "approved"}),
        lambda storage, found: approvals.decide(storage, found.approval, "approved", ANN),
    ),
    "reject": (
        lambda _: ("/approval?id=approval-1", "/approval", {"decision": "rejected"}),
        lambda storage, found: approvals.decide(storage, found.approval, "rejected", ANN),
    ),
    "pause": (
        lambda _: ("/platforms", "/platforms/pause", {"platform": "mastodon", "until": "2099-01-01T12:00"}),
        lambda storage, _: platforms.pause(storage, "mastodon", ANN, until=AT),
    ),
    "pause one without jobs": (
        lambda _: ("/platforms", "/platforms/pause", {"platform": "new"}),
        lambda storage, _: platforms.pause(storage, "new", ANN),
    ),
    "resume": (
        lambda _: ("/platforms", "/platforms/resume", {"platform": "paused"}),
        lambda storage, _: platforms.resume(storage, "paused", ANN),
    ),
    "limit": (
        lambda _: ("/platforms", "/platforms/limit", LIMIT),
        lambda storage, _: platforms.limit(storage, "dead", ANN, count=5, per=2 * HOUR),
    ),
    "no limit": (
        lambda _: ("/platforms", "/platforms/limit", {"platform": "mastodon", "count": ""}),
        lambda storage, _: platforms.limit(storage, "mastodon", ANN, count=None, per=None),
    ),
    "disable": (
        lambda _: ("/schedule?id=weekly", "/schedule/disable", {}),
        lambda storage, _: schedules.disable(storage, "weekly", ANN),
    ),
    "remove a schedule": (
        lambda _: ("/schedule?id=weekly", "/schedule/remove", {"sure": "1"}),
        lambda storage, _: schedules.remove(storage, "weekly", ANN),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_form_does_what_the_operation_does(storage: Storage, name: str) -> None:
    """Compared with a second storage, where the operation is called."""
    form_of, operate = OPERATIONS[name]
    found = fill(storage)
    with Storage(MemoryBackend(), auto_prune=False) as other:
        twin = fill(other)
        operate(other, twin)
        shown, action, fields = form_of(found)
        browser = at_page(storage)
        form = [each for each in browser.open(shown).forms if each.action == action][-1]
        response = browser.send(form, note="the text is wrong", **fields)
        assert response.status_code == 303, response.text
        notice = Document(browser.get(response.headers["location"]).text)
        assert any(attributes.get("role") == "status" for _, attributes in notice.tags)
        made, expected = operator_events(storage), operator_events(other)
        assert [event.event_type for event in made] == [event.event_type for event in expected]
        assert [without_ids(event.payload) for event in made] == [
            without_ids(event.payload) for event in expected
        ]
        assert made[0].payload["by"] == "ann"
        assert made[0].payload["note"] == "the text is wrong"
        ours, theirs = storage.queue.list(limit=100), other.queue.list(limit=100)
        assert [(job.status, job.platform, job.remote_id) for job in ours] == [
            (job.status, job.platform, job.remote_id) for job in theirs
        ]


def without_ids(payload: Any) -> dict[str, Any]:
    """But for the ids and the times that differ between two storages."""
    return {name: value for name, value in payload.items() if name not in ("job", "from", "due")}


def test_enabling_a_schedule(memory: Storage, filled: Filled) -> None:
    memory.schedules.disable("weekly")
    browser = at_page(memory)
    form = browser.open("/schedule?id=weekly").form("/schedule/enable")
    assert browser.send(form).status_code == 303
    assert [event.event_type for event in operator_events(memory)] == ["operator.schedules.enable"]


def test_without_a_name_it_is_the_login(
    memory: Storage, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "the-login")
    Browser(create_app(memory, allow_changes=True)).post(f"/jobs/{filled.waiting.id}/cancel", {})
    assert operator_events(memory)[0].payload == {"by": "the-login", "job": filled.waiting.id}


def test_a_worker_claimed_it_meanwhile(storage: Storage) -> None:
    job = storage.queue.schedule("x", "a")
    browser = at_page(storage)
    forms = browser.open(f"/jobs/{job.id}").forms
    storage.queue.claim_due(worker_id="w", limit=1)
    before = fingerprint(storage)
    for form in forms:
        if form.action.startswith("/jobs/"):
            response = browser.send(form)
            assert (response.status_code, "was claimed meanwhile" in response.text) == (409, True)
    assert fingerprint(storage) == before


def test_somebody_decided_before(storage: Storage) -> None:
    storage.approvals.add("a", {})
    browser = at_page(storage)
    form = browser.open("/approvals").form("/approval")
    storage.approvals.decide("a", "rejected")
    before = fingerprint(storage)
    response = browser.send(form, decision="approved")
    assert (response.status_code, "rejected" in response.text) == (409, True)
    assert fingerprint(storage) == before


def test_somebody_resolved_it_before(storage: Storage) -> None:
    job = unknown_outcome(storage)
    browser = at_page(storage)
    form = browser.open(f"/jobs/{job.id}").form(f"/jobs/{job.id}/resolve")
    storage.queue.resolve(job.id, posted=True)
    before = fingerprint(storage)
    assert browser.send(form, posted="no").status_code == 409
    assert fingerprint(storage) == before


def test_what_is_gone(memory: Storage, filled: Filled) -> None:
    browser = at_page(memory)
    form = browser.open(f"/jobs/{filled.dead.id}").form(f"/jobs/{filled.dead.id}/replay")
    memory.queue.remove(filled.dead.id)
    assert browser.send(form).status_code == 404
    assert browser.post("/approval", {"id": "none", "decision": "approved"}).status_code == 404
    assert browser.post("/platforms/resume", {"platform": "mastodon"}).status_code == 404
    assert browser.post("/schedule/remove", {"id": "none", "sure": "1"}).status_code == 404
    assert operator_events(memory) == []


def test_an_unknown_outcome_is_not_replayed_unless_asked(memory: Storage) -> None:
    job = unknown_outcome(memory)
    browser = at_page(memory)
    assert not any("replay" in form.action for form in browser.open(f"/jobs/{job.id}").forms)
    assert browser.post(f"/jobs/{job.id}/replay", {}).status_code == 409
    assert operator_events(memory) == []
    assert browser.post(f"/jobs/{job.id}/replay", {"unknown": "1"}).status_code == 303


# Many at once.


def ask(browser: Browser, verb: str, **query: Any) -> Document:
    response = browser.get("/jobs/bulk", params={"verb": verb, **query})
    assert response.status_code == 200, response.text
    return Document(response.text)


def statuses(storage: Storage) -> list[str]:
    return [str(job.status) for job in storage.queue.list(limit=1000)]


def test_all_that_match_on_all_pages(storage: Storage) -> None:
    for number in range(60):
        storage.queue.schedule("x" if number % 2 else "y", "a", AT)
    browser = at_page(storage)
    page = ask(browser, "cancel", platform="x")
    assert (page.title.startswith("Cancel 30 jobs?"), operator_events(storage)) == (True, [])
    answer = browser.send(page.form("/jobs/bulk"), note="all of x")
    assert Document(answer.text).title.startswith("30 cancelled")
    assert statuses(storage) == ["scheduled", "cancelled"] * 30
    events = operator_events(storage)
    assert {event.event_type for event in events} == {"operator.jobs.cancel"}
    assert [event.payload["job"] for event in events] == [
        job.id for job in storage.queue.list(limit=1000) if job.platform == "x"
    ]
    assert {(event.payload["by"], event.payload["note"]) for event in events} == {("ann", "all of x")}


def test_jobs_that_came_after_the_question_are_left_alone(storage: Storage) -> None:
    first = storage.queue.schedule("x", "a", AT)
    browser = at_page(storage)
    form = ask(browser, "cancel", platform="x").form("/jobs/bulk")
    later = storage.queue.schedule("x", "b", AT)
    browser.send(form)
    assert [job_of(storage, each.id).status for each in (first, later)] == ["cancelled", "scheduled"]


def test_jobs_that_came_at_the_same_moment_are_left_alone() -> None:
    with Storage(MemoryBackend(), clock=FakeClock(START), auto_prune=False) as storage:
        storage.queue.schedule("x", "a", AT)
        browser = at_page(storage)
        form = ask(browser, "cancel", platform="x").form("/jobs/bulk")
        storage.queue.schedule("x", "b", AT)
        browser.send(form)
        assert statuses(storage) == ["cancelled", "scheduled"]


def test_jobs_that_matched_after_the_question_are_left_alone() -> None:
    """Of lower ids than those that were shown."""
    clock = FakeClock(START)
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        held, shown = claim(storage, "x"), dead_letter(storage, "x")
        browser = at_page(storage)
        for form in (
            ask(browser, "replay", platform="x").form("/jobs/bulk"),
            ask(browser, "remove", platform="x", status="dead_letter").form("/jobs/bulk"),
        ):
            clock.advance(timedelta(seconds=1))
            if job_of(storage, held.id).status == "processing":
                storage.queue.mark_failed(held, "no", retryable=False)
            page = Document(browser.send(form, sure="1").text)
            assert "1 changed after you were asked" in page.text
            assert job_of(storage, held.id).status == "dead_letter"
        assert job_of(storage, shown.id).status == "scheduled"


def test_a_filter_by_time_means_the_time_of_the_question(memory: Storage) -> None:
    now = [datetime.now(UTC)]
    soon = memory.queue.schedule("x", "a", now[0] + timedelta(minutes=30))
    later = memory.queue.schedule("x", "a", now[0] + timedelta(minutes=90))
    last = memory.queue.schedule("x", "a", now[0] + timedelta(minutes=50))
    browser = Browser(create_app(memory, allow_changes=True, clock=lambda: now[0]))
    form = ask(browser, "cancel", due="1h").form("/jobs/bulk")
    now[0] += HOUR
    browser.send(form)
    assert [job_of(memory, job.id).status for job in (soon, later, last)] == [
        "cancelled",
        "scheduled",
        "cancelled",
    ]


def test_chosen_jobs(storage: Storage) -> None:
    jobs = [storage.queue.schedule("x", "a", AT) for _ in range(4)]
    storage.queue.cancel(jobs[2].id)
    browser = at_page(storage)
    form = next(form for form in browser.open("/jobs").forms if form.action == "/jobs/bulk")
    question = Document(browser.send(form, id=[str(jobs[0].id), str(jobs[2].id)], verb="cancel").text)
    assert question.title.startswith("Cancel 1 job?")
    assert "1 skipped: it is cancelled" in question.text
    assert browser.send(question.form("/jobs/bulk")).status_code == 200
    assert statuses(storage) == ["cancelled", "scheduled", "cancelled", "scheduled"]


def test_no_filter_means_no_job(memory: Storage, filled: Filled) -> None:
    browser = at_page(memory)
    before = fingerprint(memory)
    question = {"highest": "99", "newest": AT.isoformat(), "asked": AT.isoformat(), "sure": "1"}
    for verb in ("cancel", "replay", "remove"):
        assert browser.get(f"/jobs/bulk?verb={verb}").status_code == 400
        assert browser.post("/jobs/bulk", {"verb": verb, **question}).status_code == 400
        assert browser.post("/jobs/bulk", {"verb": verb, **question, "id": ""}).status_code == 400
    assert fingerprint(memory) == before


@pytest.mark.parametrize("missing", ["highest", "newest", "asked", "sure"])
def test_nothing_is_removed_without_the_question(memory: Storage, filled: Filled, missing: str) -> None:
    browser = at_page(memory)
    form = ask(browser, "remove", platform="dead").form("/jobs/bulk")
    before = fingerprint(memory)
    assert browser.send(form, **{"sure": "1", missing: ""}).status_code == 400
    assert fingerprint(memory) == before
    assert browser.send(form, sure="1").status_code == 200
    assert memory.queue.get(filled.dead.id) is None


def test_unknown_outcomes_are_not_replayed_with_others(memory: Storage) -> None:
    unknown, dead = unknown_outcome(memory, "x"), dead_letter(memory, "x")
    browser = at_page(memory)
    page = ask(browser, "replay", platform="x")
    assert "1 skipped: nobody knows whether it was published" in page.text
    browser.send(page.form("/jobs/bulk"))
    assert [job_of(memory, job.id).status for job in (unknown, dead)] == ["dead_letter", "scheduled"]
    browser.send(ask(browser, "replay", platform="x", unknown="1").form("/jobs/bulk"))
    assert job_of(memory, unknown.id).status == "scheduled"


def test_many_unknown_outcomes_are_resolved(memory: Storage) -> None:
    jobs = [unknown_outcome(memory, "x") for _ in range(3)]
    browser = at_page(memory)
    browser.send(ask(browser, "resolve", platform="x", posted="yes").form("/jobs/bulk"))
    assert [job_of(memory, job.id).status for job in jobs] == ["posted"] * 3
    assert [event.payload["posted"] for event in operator_events(memory)] == [True] * 3


@pytest.mark.parametrize("chosen", [False, True])
def test_it_stops_after_some_seconds_and_goes_on(
    memory: Storage, monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    jobs = [memory.queue.schedule("x", "a", AT) for _ in range(5)]
    browser = at_page(memory)
    query = {"id": [str(job.id) for job in jobs]} if chosen else {"platform": "x"}
    form = ask(browser, "cancel", **query).form("/jobs/bulk")
    seconds = [0.0]
    monkeypatch.setattr(jobs_page, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    apply = applying.apply

    def slowly(*arguments: Any) -> Job | None:
        seconds[0] += 6
        return apply(*arguments)

    monkeypatch.setattr(applying, "apply", slowly)
    for done, left in ((2, 3), (2, 1), (1, 0)):
        page = Document(browser.send(form, note="all").text)
        assert page.title.startswith(f"{done} cancelled")
        assert bool(left) == any(each.action == "/jobs/bulk" for each in page.forms)
        if left:
            assert f"{left} are left" in page.text
            form = page.form("/jobs/bulk")
    assert statuses(memory) == ["cancelled"] * 5
    assert {event.payload["note"] for event in operator_events(memory)} == {"all"}


def test_more_than_can_be_asked_about_at_once(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_page, "_MOST_AT_ONCE", 2)
    for _ in range(5):
        memory.queue.schedule("x", "a", AT)
    browser = at_page(memory)
    page = ask(browser, "cancel", platform="x")
    for cancelled in (2, 4, 5):
        page = Document(browser.send(page.form("/jobs/bulk")).text)
        assert statuses(memory).count("cancelled") == cancelled
        further = [link for link in page.links if link.startswith("/jobs/bulk?")]
        assert (len(further), [form.action for form in page.forms if "bulk" in form.action]) == (
            int(cancelled < 5),
            [],
        )
        if further:
            page = browser.open(further[0])


def test_what_cannot_be_undone_is_asked(memory: Storage, filled: Filled) -> None:
    browser = at_page(memory)
    before = fingerprint(memory)
    for path, values in ((f"/jobs/{filled.posted.id}/remove", {}), ("/schedule/remove", {"id": "weekly"})):
        response = browser.post(path, values)
        assert (response.status_code, "tick the box" in response.text) == (400, True), path
    assert fingerprint(memory) == before


def test_an_error_leads_back_and_keeps_the_note(memory: Storage, filled: Filled) -> None:
    browser = at_page(memory)
    page = Document(browser.post(f"/jobs/{filled.posted.id}/cancel", {"note": "wrong price"}).text)
    assert "Your note: wrong price" in page.text
    (back,) = [link for link in page.links if link.startswith("/jobs/")]
    form = browser.open(back).form(f"/jobs/{filled.posted.id}/remove")
    assert ("note", "wrong price") in form.fields
    for path, values, way in (
        ("/approval", {"id": "approval-2", "decision": "approved"}, "/approval?id=approval-2"),
        ("/schedule/remove", {"id": "weekly"}, "/schedule?id=weekly"),
        ("/platforms/resume", {"platform": "mastodon"}, "/platforms"),
        ("/jobs/bulk", {"verb": "cancel"}, "/jobs"),
    ):
        assert way in Document(browser.post(path, values).text).links, path
    assert "/approvals" in browser.open("/approval?id=none", 404).links
    assert "/jobs" in browser.open("/jobs?status=none", 400).links


def test_it_is_said_who_has_decided_before(memory: Storage, filled: Filled) -> None:
    approvals.decide(memory, "approval-1", "rejected", Person("kim", "a typo"))
    for id, words in (
        ("approval-1", "already decided by kim at 20"),
        ("approval-2", "already decided at 20"),
    ):
        response = at_page(memory).post("/approval", {"id": id, "decision": "approved"})
        assert response.status_code == 409
        assert words in Document(response.text).text
        assert ("(a typo)" in response.text) == (id == "approval-1")


def test_nothing_can_be_changed_so(memory: Storage) -> None:
    ids = [str(memory.queue.cancel(memory.queue.schedule("x", "a").id).id) for _ in range(3)]
    browser = at_page(memory)
    page = Document(browser.get("/jobs/bulk", params={"verb": "cancel", "id": ids}).text)
    assert page.title.startswith("Nothing to cancel")
    assert "None of the 3 can be cancelled: they are already cancelled." in page.text
    page = Document(browser.get("/jobs/bulk", params={"verb": "cancel", "id": ids[0]}).text)
    assert "It cannot be cancelled: it is already cancelled." in page.text
    dead = dead_letter(memory)
    page = Document(browser.get("/jobs/bulk", params={"verb": "cancel", "id": [*ids, str(dead.id)]}).text)
    assert (
        "None of the 4 can be cancelled. 3: they are already cancelled; 1: it is a dead letter." in page.text
    )


def test_bulk_changes_are_offered_where_they_may_match(memory: Storage) -> None:
    dead_letter(memory, "dead")
    unknown_outcome(memory, "unknown")
    browser = at_page(memory)
    for query, verbs in (
        ("platform=unknown", {"cancel", "replay", "remove", "resolve"}),
        ("platform=dead", {"cancel", "replay", "remove"}),
        ("platform=nothing", set()),
        ("status=posted", set()),
        ("", set()),
    ):
        links = browser.open(f"/jobs?{query}").links
        assert {link.partition("verb=")[2].partition("&")[0] for link in links} - {""} == verbs, query


def test_no_change_is_offered_while_a_job_is_published(memory: Storage, filled: Filled) -> None:
    browser = at_page(memory)
    assert "Change this job" in browser.open(f"/jobs/{filled.claimed.id}").text
    assert "Change this job" not in browser.open(f"/jobs/{filled.begun.id}").text


def test_not_too_many_jobs_are_selected_one_by_one(
    memory: Storage, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    get = memory.queue.get

    def look_up(job: int) -> Job | None:
        asked.append(job)
        return get(job)

    monkeypatch.setattr(memory.queue, "get", look_up)
    ids = [str(number) for number in range(1, 1002)]
    question = {"verb": "cancel", "highest": "9999", "newest": AT.isoformat(), "asked": AT.isoformat()}
    for answer in (
        browser.get("/jobs/bulk", params={"verb": "cancel", "id": ids}),
        browser.post("/jobs/bulk", {**question, "id": ids}),
    ):
        assert answer.status_code == 400
        assert "at most 1,000 jobs can be selected one by one; got 1,001" in answer.text
    assert asked == []
    assert browser.get("/jobs/bulk", params={"verb": "cancel", "id": ids[1:]}).status_code == 200
    assert len(asked) == 1000
