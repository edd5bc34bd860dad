"""A headless Chromium for the tests. Playwright is imported late: the other tests run without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page
    from playwright.sync_api._generated import LocatorAssertions

VARIABLE = "ASSISTLY_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
STRANGE_HOST = "stranger.example"
"""A host name that the browser takes for this machine."""

PATIENCE_MS = 30_000

_TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


def find_chromium() -> str:
    """The path of a Chromium. The test fails without one, and says how to get it."""
    given = os.environ.get(VARIABLE)
    found = given or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"there is no Chromium: run tests/browser/install-chromium, or set {VARIABLE} to the path of one",
            pytrace=False,
        )
    if shutil.which(found) is None:
        pytest.fail(f"{VARIABLE} is {given}, where there is no program", pytrace=False)
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser that runs inside the block."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is missing: python -m pip install 'assistly[browser]'", pytrace=False)
    options = [f"--host-resolver-rules=MAP {STRANGE_HOST} 127.0.0.1"]
    if os.getuid() == 0:
        options.append("--no-sandbox")  # which root cannot have
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=options)
        yield browser
        browser.close()


def expect(locator: Locator) -> LocatorAssertions:
    """Assertions that wait until they hold."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=PATIENCE_MS)
    return sync_api.expect(locator)


def violations(page: Page, *, rules: tuple[str, ...] = ()) -> list[str]:
    """What axe finds on the page: by these rules, or by all that a rule of accessibility stands behind."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": _TAGS}
    found = Axe().run(page, options={"runOnly": only, "resultTypes": ["violations"]}).response["violations"]
    return [f"{page.url}: {each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]
