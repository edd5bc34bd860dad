"""The pictures in docs/images, always of the same day. ASSISTLY_SCREENSHOTS names a folder to put them in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assistly.storage import MemoryBackend, Storage
from assistly.storage.testing import FakeClock
from browser.bakery import DAY, fill
from browser.conftest import OpenPage
from browser.sites import ServedPage, served_by_thread

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

VARIABLE = "ASSISTLY_SCREENSHOTS"
MOST_BYTES = 150_000


@pytest.fixture
def site() -> Iterator[ServedPage]:
    """The page on the day of the bakery."""
    from assistly.web import create_app

    clock = FakeClock(DAY)
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        fill(storage._backend, DAY)
        app = create_app(storage, allow_changes=True, zone="Europe/Berlin", clock=clock)
        with served_by_thread(app) as url:
            yield ServedPage(url, storage)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = Path(os.environ.get(VARIABLE) or tmp_path)
    found.mkdir(parents=True, exist_ok=True)
    return found


def take(page: Page, path: Path) -> None:
    again = page.screenshot()
    path.write_bytes(page.screenshot())
    assert path.read_bytes() == again
    assert path.stat().st_size < MOST_BYTES


def test_pictures_of_the_page(site: ServedPage, open_page: OpenPage, folder: Path) -> None:
    [unknown] = [job.id for job in site.storage.queue.dead_letters() if job.outcome_unknown]
    page = open_page("/", viewport={"width": 1100, "height": 800})
    take(page, folder / "page-overview.png")
    page.goto("/calendar")
    take(page, folder / "page-calendar.png")
    page.goto(f"/jobs/{unknown}")
    take(page, folder / "page-job.png")
    phone = open_page("/approvals", viewport={"width": 390, "height": 780})
    take(phone, folder / "page-phone.png")
