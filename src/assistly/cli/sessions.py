"""`assistly sessions`."""

from __future__ import annotations

from typing import Annotated

import typer

from assistly.operations.audit import Person

from .asking import ask
from .opening import opened
from .options import By, Json, Limit, Note, Utc, Yes
from .output import Output, compact

sessions = typer.Typer(
    name="sessions", help="The sessions of users.", no_args_is_help=True, rich_markup_mode=None
)

User = Annotated[str, typer.Argument(metavar="USER", help="The id of the user.")]


@sessions.command("list")
def list_sessions(
    after: Annotated[
        str | None, typer.Option(metavar="USER", help="Only those of users whose id sorts after this one.")
    ] = None,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List the sessions by user id, without their data."""
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.sessions.list(after=after, limit=limit)
    out.page(
        "sessions",
        found,
        ("user", "version", "changed"),
        lambda each: (each.user_id, str(each.version), out.time(each.updated_at)),
        option="--after",
        following=found[-1].user_id if len(found) == limit else None,
    )


@sessions.command()
def show(user: User, json: Json = False, utc: Utc = False) -> None:
    """Show the session of a user, with its data."""
    from assistly.storage import NotFound

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        session = storage.sessions.get(user)
    if session is None:
        raise NotFound(f"there is no session of the user {user!r}")
    out.record(
        session,
        [
            ("user", session.user_id),
            ("version", str(session.version)),
            ("changed", out.time(session.updated_at)),
            ("data", compact(session.data)),
        ],
    )


@sessions.command()
def delete(user: User, yes: Yes = False, by: By = None, note: Note = None, json: Json = False) -> None:
    """Delete the session of a user, after asking."""
    from assistly.operations import sessions as operations

    out = Output(json=json)
    with opened(out) as storage:
        if not yes:
            ask(out, f"Delete the session of the user {user!r}?")
        operations.delete(storage, user, Person(by, note))
    out.result({"deleted": user}, f"the session of the user {user!r} is deleted")
