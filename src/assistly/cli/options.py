"""The options that commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Utc = Annotated[bool, typer.Option("--utc", help="Show times in UTC, not in the local time zone.")]
Create = Annotated[bool, typer.Option("--create", help="Create the database if there is none.")]
By = Annotated[
    str | None,
    typer.Option(
        "--by", metavar="NAME", help="Who does this, for the event. Default: the name of the login."
    ),
]
Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why, for the event.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="At most this many.")]
