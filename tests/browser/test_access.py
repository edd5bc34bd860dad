"""Who is let in, and whose forms count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assistly.storage import Storage, open_storage
from browser.chromium import STRANGE_HOST, expect
from browser.conftest import OpenPage
from browser.sites import READ_TOKEN, TOKEN, ServedPage, served_by_process

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PATHS = ("/", "/calendar", "/jobs", "/jobs/1", "/jobs/bulk", "/approvals", "/approval?id=draft-12",
         "/platforms", "/schedules", "/events", "/doctor")  # fmt: skip
ENCODED = "application/x-www-form-urlencoded"
SECRET = "We are closed on Monday."


@pytest.fixture(scope="module")
def token_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    """`assistly web` that others can reach, with both tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    with (
        open_storage(engine="sqlite", sqlite_path=str(folder / "assistly.db"), auto_prune=False) as storage,
        served_by_process(
            folder, "--allow-changes", "--listen", "0.0.0.0:0", WEB_TOKEN=TOKEN, WEB_READ_TOKEN=READ_TOKEN
        ) as url,
    ):
        yield ServedPage(url, storage)


@pytest.fixture
def elsewhere(site: ServedPage) -> ServedPage:
    """The page under another address than a loopback page has."""
    site.storage.approvals.add("draft-12", {"content": SECRET})
    return ServedPage(f"http://127.0.0.2:{site.port}", site.storage)


with_tokens = pytest.mark.parametrize("site", ["token"], indirect=True)


def log_in(page: Page, token: str, name: str = "") -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Log in").click()


def status(storage: Storage) -> str:
    found = storage.approvals.get("draft-12")
    assert found is not None
    return found.status


@with_tokens
def test_without_a_token_nothing_is_shown(elsewhere: ServedPage, open_page: OpenPage) -> None:
    page = open_page(f"{elsewhere.url}/login")
    for path in PATHS:
        page.goto(f"{elsewhere.url}{path}")
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        assert SECRET not in page.content()
        assert "assistly.db" not in page.content(), "the place of the storage is shown"
    for form in ("/approval", "/platforms/pause", "/jobs/1/cancel", "/jobs/bulk", "/settings"):
        answer = page.request.post(
            f"{elsewhere.url}{form}", form={"id": "draft-12", "decision": "approved", "platform": "x"}
        )
        assert answer.status == 401
    assert status(elsewhere.storage) == "pending"
    assert elsewhere.storage.events.list() == []


@with_tokens
def test_a_person_logs_in_and_out(elsewhere: ServedPage, open_page: OpenPage) -> None:
    page = open_page(f"{elsewhere.url}/approvals?status=all")
    log_in(page, "a token that is wrong", "kim")
    expect(page.get_by_role("alert")).to_contain_text("Wrong token")
    log_in(page, TOKEN, "kim")
    page.wait_for_url(f"{elsewhere.url}/approvals?status=all")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status")).to_contain_text("approved")
    [event] = elsewhere.storage.events.list()
    assert event.payload == {"by": "kim", "approval_id": "draft-12"}
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.go_back()
    page.goto(f"{elsewhere.url}/approvals?status=all")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


@with_tokens
def test_a_token_for_looking_changes_nothing(elsewhere: ServedPage, open_page: OpenPage) -> None:
    storage = elsewhere.storage
    storage.queue.schedule("mastodon", "Rolls!")
    page = open_page(f"{elsewhere.url}/approvals")
    log_in(page, READ_TOKEN)
    expect(page.get_by_text(SECRET)).to_be_visible()
    for path in PATHS:
        page.goto(f"{elsewhere.url}{path}")
        expect(page.get_by_role("contentinfo")).to_contain_text("Read-only")
        assert page.locator("main form[method=post]").count() == 0, path
    form = page.locator("footer input[name=form]").first.input_value()
    answer = page.request.post(
        f"{elsewhere.url}/approval",
        form={"form": form, "id": "draft-12", "decision": "approved"},
        headers={"Origin": elsewhere.url},
    )
    assert answer.status == 403
    assert "does not allow changes" in answer.text()
    assert status(storage) == "pending"
    assert storage.events.list() == []


def test_off_loopback_a_token_is_required(tmp_path: Path) -> None:
    open_storage(engine="sqlite", sqlite_path=str(tmp_path / "assistly.db")).close()
    with (
        pytest.raises(pytest.fail.Exception, match="WEB_TOKEN"),
        served_by_process(tmp_path, "--listen", "0.0.0.0:0"),
    ):
        pass


def test_a_name_that_leads_here_shows_nothing(
    site: ServedPage, storage: Storage, open_page: OpenPage
) -> None:
    """The page of a stranger can give its own name the address of this machine."""
    storage.approvals.add("draft-12", {"content": SECRET})
    page = open_page("/approvals", complains=True)
    expect(page.get_by_text(SECRET)).to_be_visible()
    page.goto(f"http://{STRANGE_HOST}:{site.port}/approvals")
    expect(page.get_by_text("open this page as http://localhost")).to_be_visible()
    assert SECRET not in page.content()


@contextmanager
def stranger(form: str, cookie: str | None = None) -> Iterator[int]:
    """The port of another site on this machine, whose page has a form."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            if cookie is not None:
                self.send_header("Set-Cookie", cookie)
            self.end_headers()
            self.wfile.write(f"<!doctype html><link rel=icon href=data:,>{form}".encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", ENCODED),
        ("localhost", ENCODED),
        (STRANGE_HOST, ENCODED),
        ("127.0.0.1", "text/plain"),
        ("127.0.0.1", "multipart/form-data"),
    ],
)
def test_a_form_of_a_stranger_changes_nothing(
    site: ServedPage, storage: Storage, open_page: OpenPage, host: str, kind: str
) -> None:
    """Also not one on this machine, which can even set the cookie that the page's own forms repeat."""
    storage.approvals.add("draft-12", {"content": SECRET})
    form = f"""
    <form method=post enctype="{kind}" action="{site.url}/approval">
    <input name=form value=known><input name=id value=draft-12>
    <button name=decision value=approved>Win a cake</button></form>
    """
    page = open_page("/approvals")
    expect(page.get_by_role("button", name="Approve")).to_be_visible()
    with stranger(form, "assistly_form=known; Path=/") as port:
        page.goto(f"http://{host}:{port}/")
        page.get_by_role("button", name="Win a cake").click()
        said = "from another site" if kind == ENCODED else "send the form as"
        expect(page.get_by_text(said)).to_be_visible()
    assert page.url == f"{site.url}/approval"
    assert status(storage) == "pending"
    assert storage.events.list() == []


def test_a_stranger_cannot_show_the_page_in_a_frame(site: ServedPage, open_page: OpenPage) -> None:
    with stranger(f"<iframe src='{site.url}/approvals'></iframe>") as port:
        page = open_page(f"http://localhost:{port}/", complains=True)
        framed = page.frames[1]
        framed.wait_for_load_state()
        assert "Approvals" not in framed.content()
