"""Fixtures of the tests in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from assistly.storage import PostgresBackend, Storage, open_storage
from assistly.storage.testing.fixtures import empty
from browser.chromium import PATIENCE_MS, launched
from browser.sites import ServedPage, served_by_process, served_by_thread

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of a module, since playwright's event loop is in the way of other tests until it ends."""
    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def sqlite_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    """`assistly web --allow-changes` on a file."""
    folder = tmp_path_factory.mktemp("site")
    with (
        open_storage(engine="sqlite", sqlite_path=str(folder / "assistly.db"), auto_prune=False) as storage,
        served_by_process(folder, "--allow-changes", "--zone", "UTC") as url,
    ):
        yield ServedPage(url, storage)


@pytest.fixture(scope="session")
def postgres_site(database_url: str, new_schema: Callable[[], str]) -> Iterator[ServedPage]:
    from assistly.web import create_app

    with Storage(PostgresBackend(database_url, schema=new_schema()), auto_prune=False) as storage:
        storage.migrate()
        with served_by_thread(create_app(storage, allow_changes=True, zone="UTC")) as url:
            yield ServedPage(url, storage)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> ServedPage:
    """The page on an empty storage. It can be given the name of an engine; SQLite otherwise."""
    found: ServedPage = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_site")
    empty(found.storage._backend)
    return found


@pytest.fixture
def storage(site: ServedPage) -> Storage:
    return site.storage


@pytest.fixture
def open_page(browser: Browser, site: ServedPage) -> Iterator[OpenPage]:
    """Opens an address in a browser of its own.

    What the browser complains of fails the test, unless it is told that it `complains`.
    """
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # The page answers mistakes with a status of 4xx, and a text.
        is_answer = "the server responded with a status of 4" in message.text
        if not (is_answer and "/static/" not in message.location["url"]):
            complaints.append(f"{message.location['url']}: {message.text}")

    def open_one(address: str = "/", *, complains: bool = False, **options: Any) -> Page:
        context = browser.new_context(**{"base_url": site.url, **options})
        context.set_default_timeout(PATIENCE_MS)
        if not complains:
            context.on("console", note)
            context.on("weberror", lambda error: complaints.append(str(error.error)))
        page = context.new_page()
        page.goto(address)
        return page

    yield open_one
    for context in browser.contexts:
        context.close()
    assert complaints == []
