"""Error pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import Response

    from .page import WebPage

_SECTIONS = {
    "calendar": ("Calendar", "/calendar"),
    "jobs": ("Jobs", "/jobs"),
    "approval": ("Approvals", "/approvals"),
    "approvals": ("Approvals", "/approvals"),
    "platforms": ("Platforms", "/platforms"),
    "schedule": ("Schedules", "/schedules"),
    "schedules": ("Schedules", "/schedules"),
    "events": ("Events", "/events"),
}


def show_error(page: WebPage, status: int, title: str, message: str) -> Response:
    """Show an error, with a link back. Keeps the note of the form."""
    return page.show(
        "error.html",
        status=status,
        title=title,
        message=message,
        note=page.value("note"),
        back=_way_back(page),
    )


def _way_back(page: WebPage) -> tuple[str, str] | None:
    """The name and the address of the page with the form, or of its section."""
    section = page.path_and_query.strip("/").partition("?")[0].partition("/")[0]
    if section not in _SECTIONS:
        return None
    name, path = _SECTIONS[section]
    note = page.value("note")
    job, id = page.request.path_params.get("id", ""), page.value("id")
    if page.request.method == "POST" and section == "jobs" and job.isascii() and job.isdecimal():
        return f"Job {job}", page.url(f"/jobs/{job}", note=note)
    if page.request.method == "POST" and section in ("approval", "schedule") and id is not None:
        return f"{section.capitalize()} {id}", page.url(f"/{section}", id=id, note=note)
    return name, page.url(path, note=note)
