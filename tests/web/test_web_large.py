"""Pages of large contents stay small."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage import NewJob, Storage
from assistly.web.templating import templates
from web.browsing import Browser
from web.filling import claim

LARGE = "0123456789 " * 95_000  # about 1 MiB
SMALL = 1_000_000


def parts(size: int) -> dict[str, Any]:
    return {f"part-{number:06}": "x" * 1000 for number in range(size // 1020)}


@pytest.mark.parametrize("payload", [{"text": LARGE}, parts(1_000_000), LARGE])
def test_approvals_are_cut(memory: Storage, browser: Browser, payload: Any) -> None:
    for number in range(21):
        memory.approvals.add(f"a-{number:02}", payload)
    answer = browser.get("/approvals")
    assert len(answer.content) < SMALL
    page = browser.open("/approvals")
    assert page.text.count("Show more") == 20
    assert "/approval?id=a-20" in page.links
    assert "a-00" not in page.text
    assert "a-00" in browser.open(page.links[page.links.index("/approvals?status=pending&before=a-01")]).text
    whole = browser.get("/approval?id=a-20")
    assert 100_000 < len(whole.content) < SMALL
    assert "Only the first 100,000 characters are shown" in whole.text


def test_a_small_payload_is_whole(memory: Storage, browser: Browser) -> None:
    memory.approvals.add("a", {"text": "y" * 1_970})
    memory.approvals.add("b", {"text": "y" * 1_990})
    page = browser.open("/approvals")
    assert page.text.count("Show more") == 1
    assert "y" * 1_990 in browser.open("/approval?id=b").text
    assert "characters are shown" not in browser.open("/approval?id=b").text


def test_a_job_is_cut(memory: Storage, browser: Browser) -> None:
    job = claim(memory, "x", LARGE, **parts(900_000))
    job = memory.queue.mark_failed(job, LARGE)
    answer = browser.get(f"/jobs/{job.id}")
    assert 200_000 < len(answer.content) < SMALL
    assert answer.text.count("Only the first 100,000 characters are shown") == 2
    memory.queue.schedule_many(NewJob("x", LARGE) for _ in range(30))
    for path in ("/jobs", "/jobs/bulk?verb=cancel&platform=x"):
        assert len(browser.get(path).content) < SMALL / 2


def test_events_are_cut(memory: Storage, browser: Browser) -> None:
    for _ in range(51):
        memory.events.append("large", {"text": "x" * 900_000})
    page = browser.open("/events")
    assert len(browser.get("/events").content) < SMALL / 5
    assert len(page.tables["Events, newest first"]) == 51
    (older,) = [link for link in page.links if "before=" in link]
    assert len(browser.open(older).tables["Events, newest first"]) == 2


def test_a_day_has_pages(memory: Storage, browser: Browser) -> None:
    at = datetime.now(UTC) + timedelta(days=2)
    memory.queue.schedule_many(NewJob("x", "c", at) for _ in range(150))
    page = browser.open(f"/calendar/{at.astimezone().date()}?platform=x")
    caption = "Waiting jobs due on this day, the next one first"
    (later,) = [link for link in page.links if "after=" in link]
    rest = browser.open(later)
    ids = [row[0] for found in (page, rest) for row in found.tables[caption][1:]]
    assert ids == [str(number) for number in range(1, 151)]
    assert not [link for link in rest.links if "after=" in link]
    memory.queue.cancel(100)
    memory.queue.remove(100)
    assert browser.get(later).status_code == 404


def test_no_more_is_formatted_than_is_shown() -> None:
    class Untouched(dict[str, Any]):
        def items(self) -> Any:
            raise AssertionError("it was formatted")

    start = templates().filters["json_start"]
    assert start(["a" * 300, Untouched(b=1)], 200, None) == ('["' + "a" * 198, True)
    assert start({"a": [1]}) == ('{\n  "a": [\n    1\n  ]\n}', False)
    cut = templates().filters["cut"]
    assert cut("a  b\n c", 5) == "a b c"
    assert cut("a b c d", 5) == "a b …"
    assert cut(" " * 100 + "b", 5) == "…"
