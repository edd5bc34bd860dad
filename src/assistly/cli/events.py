"""`assistly events`."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from .opening import opened
from .options import Json, Limit, Utc
from .output import Output, compact, one_line
from .values import time_before_now

if TYPE_CHECKING:
    from assistly.storage import Event

events = typer.Typer(name="events", help="The event log.", no_args_is_help=True, rich_markup_mode=None)

Type = Annotated[
    str | None,
    typer.Option("--type", metavar="TYPE", help="Only events of this type; may end with a *: 'operator.*'."),
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Only those caused by this person.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        parser=time_before_now,
        metavar="TIME",
        help="Only those since a time, or within a duration such as 2h.",
    ),
]

_PAUSE_SECONDS = 1.0


@events.command("list")
def list_events(
    type: Type = None,
    by: By = None,
    since: Since = None,
    before: Annotated[
        int | None, typer.Option(min=1, metavar="ID", help="Only those before this event.")
    ] = None,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List the events, newest first."""
    from assistly.views.events import EventFilter, newest

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = [*islice(newest(storage, EventFilter(type, by, since), before=before), limit)]
    out.page(
        "events",
        found,
        ("id", "time", "type", "payload"),
        partial(_row, out),
        option="--before",
        following=found[-1].id if len(found) == limit else None,
        cut="payload",
    )


@events.command(short_help="Print events as they are appended, until Ctrl-C.")
def follow(
    type: Type = None,
    by: By = None,
    since_id: Annotated[
        int | None,
        typer.Option(min=0, metavar="ID", help="Start after this event. Default: only new events."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each event.")] = False,
    utc: Utc = False,
) -> None:
    """Print events as they are appended, in the order of their ids, until Ctrl-C."""
    from assistly.views.events import EventFilter

    wanted = EventFilter(type, by)
    out = Output(json=json, utc=utc)
    try:
        with opened(out) as storage:
            last = since_id
            if last is None:
                newest = storage.events.list(limit=1)
                last = newest[0].id if newest else 0
            while True:
                found = storage.events.read_after(last, event_type=wanted.exact_type, limit=1000)
                for event in found:
                    last = event.id
                    if not wanted.accepts(event):
                        continue
                    if json:
                        out.lines([event])
                    else:
                        out.say("  ".join(_row(out, event)))
                if not found:
                    time.sleep(_PAUSE_SECONDS)
    except KeyboardInterrupt:
        return


def _row(out: Output, event: Event) -> tuple[str, str, str, str]:
    return str(event.id), out.time(event.created_at), event.event_type, one_line(compact(event.payload))
