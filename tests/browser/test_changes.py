"""What people change on the page, and the events of it. The main flow is tested on Postgres, too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from assistly.operations.audit import login
from assistly.storage import Job, Platform, Storage
from browser.chromium import expect
from browser.conftest import OpenPage

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

on_both_engines = pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)

HOUR = timedelta(hours=1)


def form(page: Page, name: str) -> Locator:
    return page.get_by_role("form", name=name, exact=True)


def send(page: Page, name: str, button: str, *, note: str = "as agreed", **fields: str) -> None:
    """Fill in a form, and press a button of it."""
    found = form(page, name)
    for label, value in {**fields, "Note": note}.items():
        found.get_by_label(label.replace("_", " ")).fill(value)
    found.get_by_role("button", name=button, exact=True).click()


def expect_notice(page: Page, text: str) -> None:
    expect(page.get_by_role("status")).to_contain_text(text)


def expect_refusal(page: Page) -> None:
    """A page that says that nothing was changed, and why."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Nothing was changed")
    expect(page.get_by_role("alert")).not_to_be_empty()


def only_event(storage: Storage) -> tuple[str, dict[str, Any]]:
    """The one event that people have left."""
    [event] = [each for each in storage.events.list() if each.event_type.startswith("operator.")]
    assert isinstance(event.payload, dict)
    return event.event_type, event.payload


def by_me(**details: Any) -> dict[str, Any]:
    return {"by": login(), "note": "as agreed", **details}


def dead_letter(storage: Storage, *, unknown: bool = False) -> Job:
    id = storage.queue.schedule("bluesky", "Half price after five.").id
    [job] = storage.queue.claim_due(worker_id="worker-1")
    job = storage.queue.begin_publish(job)
    if unknown:
        storage.queue.mark_unknown(job, "no answer")
    else:
        storage.queue.mark_failed(job, "401: the token was revoked", retryable=False)
    return stored(storage, id)


def platform(storage: Storage, name: str) -> Platform:
    found = storage.platforms.get(name)
    assert found is not None
    return found


def stored(storage: Storage, id: int) -> Job:
    job = storage.queue.get(id)
    assert job is not None
    return job


@on_both_engines
@pytest.mark.parametrize(
    ("button", "status", "verb"), [("Approve", "approved", "approve"), ("Reject", "rejected", "reject")]
)
def test_an_approval_is_decided(
    storage: Storage, open_page: OpenPage, button: str, status: str, verb: str
) -> None:
    storage.approvals.add("draft-12", {"content": "We are closed on Monday."})
    storage.approvals.add("draft-13", {"content": "We are closed on Tuesday."})
    page = open_page("/")
    page.get_by_role("link", name="pending").click()
    send(page, "Decide draft-12", button)
    expect_notice(page, f"draft-12 is {status}")
    expect(page.get_by_text("We are closed on Monday.")).to_have_count(0)
    expect(form(page, "Decide draft-13")).to_be_visible()
    decided, other = storage.approvals.get("draft-12"), storage.approvals.get("draft-13")
    assert decided is not None
    assert decided.status == status
    assert other is not None
    assert other.status == "pending"
    assert only_event(storage) == (f"operator.approvals.{verb}", by_me(approval_id="draft-12"))
    page.reload()
    expect(page.get_by_role("status")).to_have_count(0)


@on_both_engines
@pytest.mark.parametrize(("button", "status"), [("It was posted", "posted"), ("Not posted", "scheduled")])
def test_an_unknown_outcome_is_resolved(
    storage: Storage, open_page: OpenPage, button: str, status: str
) -> None:
    job = dead_letter(storage, unknown=True)
    page = open_page("/")
    page.get_by_role("link", name="unknown outcome").click()
    page.get_by_role("row").get_by_role("link", name=str(job.id), exact=True).click()
    form(page, "Resolve").get_by_label("Post ID on").fill("at://1" if status == "posted" else "")
    form(page, "Resolve").get_by_label("Note").fill("as agreed")
    form(page, "Resolve").get_by_role("button", name=button).first.click()
    expect_notice(page, "resolved")
    found = stored(storage, job.id)
    assert found.status == status
    assert found.remote_id == ("at://1" if status == "posted" else None)
    assert only_event(storage) == (
        "operator.jobs.resolve",
        by_me(job=job.id, posted=status == "posted", remote_id=found.remote_id),
    )


@on_both_engines
def test_a_dead_letter_is_replayed(storage: Storage, open_page: OpenPage) -> None:
    job = dead_letter(storage)
    page = open_page("/")
    page.get_by_role("link", name="dead letter").first.click()
    page.get_by_role("row").get_by_role("link", name=str(job.id), exact=True).click()
    send(page, "Replay", "Replay", Due_at="2035-03-01T09:00")
    expect_notice(page, "replayed")
    found = stored(storage, job.id)
    assert found.status == "scheduled"
    assert found.due_at == datetime(2035, 3, 1, 9, tzinfo=UTC)
    kind, payload = only_event(storage)
    assert kind == "operator.jobs.replay"
    assert payload == by_me(job=job.id, reason="401: the token was revoked", outcome_unknown=False)


def test_a_job_is_moved_cancelled_and_removed(storage: Storage, open_page: OpenPage) -> None:
    job = storage.queue.schedule("mastodon", "Rolls!", datetime.now(UTC) + HOUR)
    page = open_page(f"/jobs/{job.id}")
    send(page, "Move", "Move", Due_at="2035-03-01T09:00")
    expect_notice(page, "moved")
    assert stored(storage, job.id).due_at == datetime(2035, 3, 1, 9, tzinfo=UTC)
    send(page, "Cancel", "Cancel")
    expect_notice(page, "cancelled")
    assert stored(storage, job.id).status == "cancelled"
    form(page, "Remove").get_by_role("checkbox").check()
    send(page, "Remove", "Remove")
    expect(page.get_by_text("There is no such job").first).to_be_visible()
    assert storage.queue.get(job.id) is None
    kinds = [each.event_type for each in storage.events.list()]
    assert kinds == ["operator.jobs.remove", "operator.jobs.cancel", "operator.jobs.move"]


@on_both_engines
def test_a_platform_is_paused_and_resumed(storage: Storage, open_page: OpenPage) -> None:
    storage.queue.schedule("mastodon", "Rolls!")
    page = open_page("/platforms")
    page.get_by_role("article", name="mastodon").get_by_text("Pause", exact=True).first.click()
    paused = form(page, "Pause mastodon")
    paused.get_by_label("Until").fill("2035-03-01T09:00")
    paused.get_by_label("Reason").fill("as agreed")
    paused.get_by_role("button", name="Pause").click()
    expect_notice(page, "mastodon is paused")
    found = platform(storage, "mastodon")
    assert found.paused
    assert found.paused_until == datetime(2035, 3, 1, 9, tzinfo=UTC)
    assert found.reason == "as agreed"
    assert only_event(storage)[1] == by_me(platform="mastodon", until="2035-03-01T09:00:00Z")
    expect(page.get_by_role("article", name="mastodon")).to_contain_text("as agreed")
    send(page, "Resume mastodon", "Resume")
    expect_notice(page, "is resumed")
    assert not platform(storage, "mastodon").paused
    assert storage.events.list(limit=1)[0].event_type == "operator.platforms.resume"


def test_a_platform_without_jobs_is_paused(storage: Storage, open_page: OpenPage) -> None:
    page = open_page("/platforms")
    other = form(page, "Pause another platform")
    other.get_by_label("Platform").fill("telegram")
    other.get_by_role("button", name="Pause").click()
    expect_notice(page, "telegram is paused")
    assert platform(storage, "telegram").paused


def test_a_platform_is_limited(storage: Storage, open_page: OpenPage) -> None:
    storage.queue.schedule("mastodon", "Rolls!")
    page = open_page("/platforms")
    limit = form(page, "Limit mastodon")
    page.get_by_role("article", name="mastodon").get_by_text("Limit", exact=True).first.click()
    limit.get_by_label("Jobs").fill("30")
    limit.get_by_label("in", exact=True).fill("2")
    limit.get_by_label("Unit").select_option("hours")
    limit.get_by_label("Note").fill("as agreed")
    limit.get_by_role("button", name="Set the limit").click()
    expect_notice(page, "limit")
    found = platform(storage, "mastodon")
    assert found.limit == (30, 2 * HOUR)
    assert only_event(storage) == (
        "operator.platforms.limit",
        by_me(platform="mastodon", count=30, per=7200.0),
    )
    page.get_by_role("article", name="mastodon").get_by_text("Limit", exact=True).first.click()
    limit.get_by_label("Jobs").fill("")
    limit.get_by_role("button", name="Set the limit").click()
    expect_notice(page, "limit removed")
    assert platform(storage, "mastodon").limit is None


def test_a_schedule_is_disabled_enabled_and_removed(storage: Storage, open_page: OpenPage) -> None:
    storage.schedules.put("rolls", "bluesky", "Rolls are ready.", every=6 * HOUR)
    storage.schedules.run()
    jobs = len(storage.schedules.waiting("rolls"))
    assert jobs
    page = open_page("/schedules")
    page.get_by_role("link", name="rolls").click()
    send(page, "Disable", "Disable")
    expect_notice(page, "rolls is disabled")
    found = storage.schedules.get("rolls")
    assert found is not None
    assert not found.enabled
    assert storage.schedules.waiting("rolls") == []
    assert only_event(storage) == (
        "operator.schedules.disable",
        by_me(schedule="rolls", removed_jobs=jobs),
    )
    send(page, "Enable", "Enable")
    expect_notice(page, "rolls is enabled")
    found = storage.schedules.get("rolls")
    assert found is not None
    assert found.enabled
    form(page, "Remove").get_by_role("checkbox").check()
    send(page, "Remove", "Remove")
    expect_notice(page, "rolls is removed")
    assert storage.schedules.get("rolls") is None
    assert storage.events.list(limit=1)[0].event_type == "operator.schedules.remove"


@on_both_engines
def test_somebody_else_has_decided_meanwhile(storage: Storage, open_page: OpenPage) -> None:
    storage.approvals.add("draft-12", {"content": "We are closed on Monday."})
    page = open_page("/approvals")
    storage.approvals.decide("draft-12", "rejected")
    send(page, "Decide draft-12", "Approve")
    expect_refusal(page)
    found = storage.approvals.get("draft-12")
    assert found is not None
    assert found.status == "rejected"
    assert storage.events.list() == []


@pytest.mark.parametrize("button", ["It was posted", "Not posted"])
def test_a_job_was_resolved_and_claimed_meanwhile(storage: Storage, open_page: OpenPage, button: str) -> None:
    """Its outcome is unknown again, and the person has looked for an earlier one."""
    job = dead_letter(storage, unknown=True)
    page = open_page(f"/jobs/{job.id}")
    storage.queue.resolve(job.id, posted=False)
    [claimed] = storage.queue.claim_due(worker_id="worker-2")
    storage.queue.mark_unknown(storage.queue.begin_publish(claimed), "no answer")
    before = stored(storage, job.id)
    form(page, "Resolve").get_by_role("button", name=button).first.click()
    expect_refusal(page)
    assert stored(storage, job.id) == before
    assert storage.events.list() == []


def test_a_job_was_claimed_meanwhile(storage: Storage, open_page: OpenPage) -> None:
    job = storage.queue.schedule("mastodon", "Rolls!")
    page = open_page(f"/jobs/{job.id}")
    [claimed] = storage.queue.claim_due(worker_id="worker-1")
    begun = storage.queue.begin_publish(claimed)
    send(page, "Cancel", "Cancel")
    expect_refusal(page)
    assert stored(storage, job.id) == begun
    assert storage.events.list() == []
