"""`assistly why`."""

from __future__ import annotations

import typer

from .job_options import Id
from .jobs import reasons_document
from .opening import opened
from .options import Json, Utc
from .output import Output


def why(id: Id, json: Json = False, utc: Utc = False) -> None:
    """Explain why a post is not published, and which command to run.

    The exit code is 1 if there is no such job.
    """
    from assistly.views.jobs import story

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = story(storage, id)
    if json:
        status = None if found.job is None else str(found.job.status)
        out.document({"id": id, "status": status, "reasons": reasons_document(out, found)})
    else:
        if found.job is not None:
            status = "a dead letter" if found.job.status == "dead_letter" else str(found.job.status)
            out.say(f"Job {id} on {found.job.platform} is {status}.")
        for reason in found.reasons:
            out.say(reason.text(out.time))
    if found.job is None:
        raise typer.Exit(1)
