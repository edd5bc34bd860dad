"""What the pages show: contents that are no texts for people, times by zone, and all that without scripts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import Storage
from browser.bakery import fill
from browser.chromium import expect
from browser.conftest import OpenPage
from browser.sites import ServedPage

pytestmark = pytest.mark.browser

HOUR = timedelta(hours=1)
SCRIPT = "</pre><script>document.title='it ran'</script><img src=x onerror=alert(1)>'\"{{7*7}}"
LEFT = "left\u202e\u2066\x1b[31m\x07"
"""Turns the direction of what follows, and controls terminals."""


def hostile(storage: Storage, text: str) -> list[str]:
    """Records with a text in every place where one can be, and the pages that show it."""
    queue = storage.queue
    id = queue.schedule(text, text, idempotency_key=text, metadata={text: text}).id
    [job] = queue.claim_due(worker_id=text)
    job = queue.begin_publish(job)
    queue.checkpoint(job, {text: text})
    queue.mark_unknown(job, text)
    queue.schedule(text, text, datetime.now(UTC) + HOUR)
    storage.lock.acquire(text)
    storage.approvals.add(text, {text: text})
    storage.platforms.pause(text, reason=text, by=text)
    storage.schedules.put(text, text, text, every=HOUR)
    storage.events.append(text, {text: text})
    storage.events.append("operator.jobs.move", {"job": id, "by": text, "note": text})
    return ["/", "/calendar", "/jobs", f"/jobs/{id}", "/approvals", "/platforms", "/schedules", "/events"]


def test_markup_in_contents_is_text(storage: Storage, open_page: OpenPage) -> None:
    page = open_page("/")
    for path in hostile(storage, SCRIPT):
        page.goto(path)
        assert "<script>document" in page.inner_text("main"), path
        assert page.locator("script, img").count() == 0, path
        assert "it ran" not in page.title()
    for link in ("/approvals", "/schedules"):
        page.goto(link)
        page.get_by_role("main").get_by_role("link", name="<script>").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("<script>")
        assert page.locator("script, img").count() == 0
        assert not page.title().startswith("it ran")


def test_characters_that_turn_the_text_turn_only_their_own(storage: Storage, open_page: OpenPage) -> None:
    """Every such character is shown as a sign, so that a text cannot pass for another."""
    page = open_page("/")
    for path in hostile(storage, LEFT):
        page.goto(path)
        shown = page.locator("html").inner_text()
        assert "left" in shown, path
        assert not {*"\u202e\u2066\x1b\x07"} & {*shown}, path


def test_times_are_shown_in_the_chosen_zone(storage: Storage, open_page: OpenPage) -> None:
    job = storage.queue.schedule("mastodon", "Rolls!", datetime(2035, 7, 1, 23, 30, tzinfo=UTC))
    page = open_page(f"/jobs/{job.id}")
    expect(page.get_by_text("2035-07-01 23:30:00+00:00").first).to_be_visible()
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    page.get_by_role("button", name="Use").click()
    expect(page.get_by_text("2035-07-02 08:30:00+09:00").first).to_be_visible()
    assert page.url.endswith(f"/jobs/{job.id}")
    assert page.get_by_role("form", name="Move").get_by_label("Due at").input_value() == "2035-07-02T08:30"
    page.goto("/calendar/2035-07-01")
    expect(page.get_by_role("row")).to_have_count(0)
    page.goto("/calendar/2035-07-02")
    expect(page.get_by_role("row").filter(has_text="Rolls!")).to_be_visible()
    page.goto(f"/jobs/{job.id}")
    move = page.get_by_role("form", name="Move")
    move.get_by_label("Due at").fill("2035-07-02T09:00")
    move.get_by_role("button", name="Move").click()
    expect(page.get_by_role("status")).to_contain_text("moved")
    moved = storage.queue.get(job.id)
    assert moved is not None
    assert moved.due_at == datetime(2035, 7, 2, tzinfo=UTC)
    page.get_by_label("Time zone").fill("Mars/Olympus")
    page.get_by_role("button", name="Use").click()
    expect(page.get_by_role("alert")).to_contain_text("Europe/Berlin")
    page.goto(f"/jobs/{job.id}")
    page.get_by_label("Time zone").fill("")
    page.get_by_role("button", name="Use").click()
    expect(page.get_by_text("2035-07-02 00:00:00+00:00").first).to_be_visible()


def test_everything_works_without_scripts(storage: Storage, open_page: OpenPage) -> None:
    fill(storage._backend, datetime.now(UTC))
    [unknown] = [job.id for job in storage.queue.dead_letters() if job.outcome_unknown]
    page = open_page("/", java_script_enabled=False)
    page.get_by_role("link", name="unknown outcome").click()
    page.get_by_role("row").get_by_role("link", name=str(unknown), exact=True).click()
    page.get_by_role("button", name="It was posted").click()
    expect(page.get_by_role("status")).to_contain_text("resolved")
    page.get_by_role("link", name="Approvals").click()
    page.get_by_role("form", name="Decide draft-12").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status")).to_contain_text("approved")
    page.get_by_role("link", name="Platforms").click()
    page.get_by_role("form", name="Resume telegram").get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("telegram")
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_role("checkbox", name="posted").check()
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("row").filter(has_text=str(unknown)).first).to_be_visible()
    job, approval = storage.queue.get(unknown), storage.approvals.get("draft-12")
    assert job is not None
    assert job.status == "posted"
    assert approval is not None
    assert approval.status == "approved"


def test_an_unknown_address_says_so(site: ServedPage, open_page: OpenPage) -> None:
    page = open_page("/jobs/999")
    expect(page.get_by_text("There is no such job").first).to_be_visible()
    page.goto("/schedule?id=nothing")
    expect(page.get_by_role("alert")).to_contain_text("'nothing'")
