"""Changes of many jobs: the chosen ones, and all that match, also those on other pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from assistly.operations.audit import login
from assistly.storage import NewJob, Storage
from browser.chromium import expect
from browser.conftest import OpenPage

pytestmark = pytest.mark.browser

MATCHING = 130
HOUR = timedelta(hours=1)


def scheduled(storage: Storage, count: int, content: str, platform: str = "telegram") -> list[int]:
    due = datetime.now(UTC) + HOUR
    return [
        job.id
        for job in storage.queue.schedule_many(
            [NewJob(platform, f"{content} {number}", due) for number in range(count)]
        )
    ]


def cancelled(storage: Storage) -> list[int]:
    return [job.id for job in storage.queue.list(status="cancelled", limit=1000)]


def test_all_that_match_are_cancelled_on_all_pages(storage: Storage, open_page: OpenPage) -> None:
    meant = scheduled(storage, MATCHING, "Rye bread")
    others = scheduled(storage, 3, "Rolls") + scheduled(storage, 3, "Rye bread", "mastodon")
    page = open_page("/jobs")
    page.get_by_label("Platform").fill("telegram")
    page.get_by_label("Text", exact=True).fill("rye BREAD")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("link", name="Older jobs")).to_be_visible()
    page.get_by_role("region", name="All matching jobs").get_by_role("link", name="Cancel…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Cancel {MATCHING} jobs?")
    assert cancelled(storage) == []
    [late] = scheduled(storage, 1, "Rye bread")  # after the question: it is no part of the answer
    page.get_by_label("Note").fill("no flour")
    page.get_by_role("button", name=f"Cancel {MATCHING}").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"{MATCHING} cancelled")
    assert sorted(cancelled(storage)) == meant
    for id in (*others, late):
        job = storage.queue.get(id)
        assert job is not None
        assert job.status == "scheduled"
    events = storage.events.list(event_type="operator.jobs.cancel", limit=1000)
    assert sorted(each.payload["job"] for each in events) == meant
    assert {(each.payload["by"], each.payload["note"]) for each in events} == {(login(), "no flour")}


def test_the_chosen_ones_are_cancelled(storage: Storage, open_page: OpenPage) -> None:
    ids = scheduled(storage, 5, "Rolls")
    page = open_page("/jobs")
    page.get_by_role("checkbox", name=f"Select job {ids[1]}").check()
    page.get_by_role("checkbox", name=f"Select job {ids[3]}").check()
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cancel 2 jobs?")
    page.get_by_role("button", name="Cancel 2").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("2 cancelled")
    assert sorted(cancelled(storage)) == [ids[1], ids[3]]


def test_no_jobs_are_no_change(storage: Storage, open_page: OpenPage) -> None:
    [id] = scheduled(storage, 1, "Rolls")
    page = open_page("/jobs")
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("alert")).to_contain_text("select at least one job")
    page.goto("/jobs?status=dead_letter")
    expect(page.get_by_role("region", name="All matching jobs")).to_have_count(0)
    page.goto("/jobs/bulk?verb=replay&status=dead_letter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Nothing to replay")
    expect(page.get_by_role("button", name="Replay")).to_have_count(0)
    assert storage.events.list() == []
    assert cancelled(storage) == []
    assert storage.queue.get(id) is not None
