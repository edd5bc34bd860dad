"""The options that commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Utc = Annotated[bool, typer.Option("--utc", help="Show times in UTC instead of the local time zone.")]
Create = Annotated[bool, typer.Option("--create", help="Create the database if it is missing.")]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who does this, for the event log. Default: the login name."),
]
Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why, for the event log.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="At most this many.")]
