"""How every page looks: on a phone, enlarged, light and dark, with much and with nothing in the storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import pytest

from assistly.storage import Storage
from browser.bakery import fill
from browser.chromium import violations
from browser.conftest import OpenPage

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

pytestmark = pytest.mark.browser

LONG = "unbroken" * 60
POSTS = 6
"""Few, since axe looks at each row."""
HOUR = timedelta(hours=1)
DESK: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
LISTS = ("/", "/calendar", "/jobs", "/approvals", "/approvals?status=all", "/platforms", "/schedules",
         "/events", "/doctor")  # fmt: skip
EMPTY = (*LISTS, "/jobs/1", "/schedule?id=none", "/jobs?status=posted", "/jobs/bulk?verb=cancel&platform=x")
DETAILS = (
    "/jobs?status=scheduled&platform=mastodon",
    "/jobs/bulk?verb=replay&status=dead_letter",
    "/approval?id=draft-12",
    "/approval?id=draft-10",
    "/schedule?id=weekly-bread",
)


def filled(storage: Storage) -> list[str]:
    """The addresses of pages of every kind, on a full storage."""
    fill(storage._backend, datetime.now(UTC), posts=POSTS)
    jobs = {str(job.status): job.id for job in storage.queue.list(limit=1000)}
    unknown, dead = sorted(job.id for job in storage.queue.dead_letters() if not job.missed)
    pages = [*(f"/jobs/{id}" for id in {*jobs.values(), unknown, dead}), *DETAILS]
    return [*LISTS, *pages, f"/calendar/{datetime.now(UTC).date() + timedelta(days=1)}"]


def filled_with_long_texts(storage: Storage) -> list[str]:
    """Of the same kinds, with long texts that have no place to break."""
    name = LONG[:400]
    id = storage.queue.schedule(name, LONG, idempotency_key=name, metadata={name: [LONG]}).id
    [job] = storage.queue.claim_due(worker_id=name)
    job = storage.queue.begin_publish(job)
    storage.queue.checkpoint(job, {LONG: LONG})
    storage.queue.mark_failed(job, LONG, retryable=False)
    storage.queue.replay(id)
    [job] = storage.queue.claim_due(worker_id=name)
    storage.queue.mark_unknown(storage.queue.begin_publish(job), LONG)
    posted = storage.queue.schedule("mastodon", LONG).id
    [job] = storage.queue.claim_due(worker_id=name)
    storage.queue.mark_posted(storage.queue.begin_publish(job), LONG)
    storage.queue.schedule(name, LONG, datetime.now(UTC) + HOUR)
    held = storage.queue.schedule(name, LONG, datetime.now(UTC) - HOUR).id
    storage.queue.claim_due(worker_id=name)
    storage.lock.acquire(name)
    storage.approvals.add(name, {LONG: LONG})
    storage.platforms.pause(name, reason=LONG[:400], by=name)
    storage.schedules.put(name, name, LONG, every=HOUR)
    storage.events.append(name, {LONG: LONG})
    storage.events.append("operator.jobs.move", {"job": id, "by": LONG, "note": LONG})
    jobs = [f"/jobs/{each}" for each in (id, posted, held)]
    pages = [*jobs, f"/approval?id={name}", f"/schedule?id={name}"]
    return [*LISTS, *pages, f"/jobs?platform={name}&match={name}", f"/jobs/bulk?verb=cancel&platform={name}"]


def too_wide(page: Page) -> list[str]:
    """What makes the page scroll sideways."""
    found: list[str] = page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth
          if (document.documentElement.scrollWidth <= width) return []
          return [...document.querySelectorAll("body *")]
            .filter(each => each.getBoundingClientRect().right > width + 1)
            .map(each => each.outerHTML.slice(0, 100)).concat([`scrolls: ${width}`])
        }"""
    )
    return [f"{page.url[:80]}: {each}" for each in found]


@pytest.mark.parametrize("contents", ["usual", "long"])
@pytest.mark.parametrize("width", [390, 320, 640])
def test_no_page_scrolls_sideways(
    storage: Storage, open_page: OpenPage, width: int, contents: Literal["usual", "long"]
) -> None:
    """On phones, and at 640 pixels, which a screen of 1280 has that is enlarged to 200 %."""
    paths = filled(storage) if contents == "usual" else filled_with_long_texts(storage)
    page = open_page("/", viewport={"width": width, "height": 844})
    found: list[str] = []
    for path in paths:
        page.goto(path)
        found += too_wide(page)
        opened = page.locator("details:not([open]) > summary")
        while opened.count():
            opened.first.click()
        found += too_wide(page)
    assert found == []


@pytest.mark.parametrize(
    ("contents", "size"),
    [("filled", DESK), ("filled", PHONE), ("empty", DESK)],
    ids=["filled-desk", "filled-phone", "empty-desk"],
)
def test_pages_are_accessible(
    storage: Storage, open_page: OpenPage, contents: Literal["filled", "empty"], size: ViewportSize
) -> None:
    """By the rules of axe for WCAG 2.2, level AA, and by its best practices."""
    paths = filled(storage) if contents == "filled" else EMPTY
    page = open_page("/", viewport=size)
    found: list[str] = []
    for path in paths:
        page.goto(path)
        found += violations(page)
    assert found == []


@pytest.mark.parametrize("contents", ["filled", "empty"])
def test_dark_pages_have_enough_contrast(
    storage: Storage, open_page: OpenPage, contents: Literal["filled", "empty"]
) -> None:
    """Only colors differ from the light ones."""
    paths = filled(storage) if contents == "filled" else EMPTY
    page = open_page("/", viewport=DESK, color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    found: list[str] = []
    for path in paths:
        page.goto(path)
        found += violations(page, rules=("color-contrast",))
    assert found == []
