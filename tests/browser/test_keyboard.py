"""The page without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from assistly.storage import Storage
from browser.chromium import expect
from browser.conftest import OpenPage

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PAGES = ["Overview", "Calendar", "Jobs", "Approvals", "Platforms", "Schedules", "Events", "Doctor"]
MOST_STOPS = 60

_FOCUSED = """() => {
  const found = document.activeElement, style = getComputedStyle(found), box = found.getBoundingClientRect()
  return {
    tag: found.tagName,
    text: (found.labels?.[0] ?? found).innerText.trim(),
    outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
    isShown: box.width > 0 && box.right > 0 && box.bottom > 0,
  }
}"""


def stops(page: Page) -> list[str]:
    """What Tab leads to, from the beginning of the page to its end. All of it is seen, and marked."""
    found: list[str] = []
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused["tag"] == "BODY":
            return found
        assert focused["isShown"], focused
        assert focused["outline"] >= 2, focused
        found.append(focused["text"])
    raise AssertionError(f"Tab does not come to an end: {found}")


def test_tab_leads_through_the_page(storage: Storage, open_page: OpenPage) -> None:
    storage.approvals.add("draft-12", {"content": "We are closed on Monday."})
    found = stops(open_page("/approvals"))
    assert found[:2] == ["Skip to the content", "Assistly"]
    assert found[2:10] == PAGES
    first, last = found.index("draft-12"), found.index("Time zone")
    assert found[first:last] == ["draft-12", found[first + 1], "Note", "Approve", "Reject"]


@pytest.mark.parametrize("path", ["/", "/calendar", "/jobs", "/platforms", "/events"])
def test_what_has_the_focus_is_marked(storage: Storage, open_page: OpenPage, path: str) -> None:
    storage.queue.schedule("mastodon", "Rolls!")
    page = open_page(path)
    summaries = page.locator("summary")
    for number in range(summaries.count()):
        summaries.nth(number).click()
    page.locator("body").evaluate("document.activeElement.blur()")
    page.goto(path)
    assert set(PAGES) <= set(stops(page))


def test_the_navigation_can_be_skipped(open_page: OpenPage) -> None:
    page = open_page("/approvals")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("main").get_by_role("link").first).to_be_focused()


def test_an_approval_is_decided_with_the_keyboard_alone(storage: Storage, open_page: OpenPage) -> None:
    storage.approvals.add("draft-12", {"content": "We are closed on Monday."})
    page = open_page("/approvals")
    note, approve = page.get_by_label("Note"), page.get_by_role("button", name="Approve")
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        if note.evaluate("each => each === document.activeElement"):
            break
    page.keyboard.type("fine")
    page.keyboard.press("Tab")
    expect(approve).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("approved")
    found = storage.approvals.get("draft-12")
    assert found is not None
    assert found.status == "approved"
    [event] = storage.events.list()
    assert event.payload["note"] == "fine"


def test_a_status_filter_is_chosen_with_the_keyboard(storage: Storage, open_page: OpenPage) -> None:
    storage.queue.schedule("mastodon", "Rolls!")
    page = open_page("/jobs")
    page.get_by_role("checkbox", name="scheduled").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?*status=scheduled*")
    expect(page.get_by_role("checkbox", name="scheduled")).to_be_checked()
