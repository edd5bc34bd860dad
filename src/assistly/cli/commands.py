"""The commands of `assistly`. The module of a command is imported when the command is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group


class Entry(NamedTuple):
    """The module and name of a command, and its line in the list of commands (None hides it)."""

    module: str
    attribute: str
    summary: str | None


COMMANDS = {
    "demo": Entry("demo.command", "demo", "Run a content calendar through the storage."),
    "worker": Entry("worker", "worker", "Publish due jobs, until SIGTERM or SIGINT."),
    "web": Entry("web", "web", "Serve a page that shows the storage, and can change it."),
    "status": Entry("status", "status", "Show what the storage holds, and what needs attention."),
    "why": Entry("why", "why", "Explain why a post is not published yet, or will not be."),
    "jobs": Entry("jobs", "jobs", "List, show, add, move, cancel, replay and resolve posts."),
    "approvals": Entry("approvals", "approvals", "Approve and reject requests that wait for a decision."),
    "platforms": Entry("platforms", "platforms", "Pause, resume and limit platforms, for all workers."),
    "schedules": Entry("schedules", "schedules", "List and change recurring posts, and make their jobs."),
    "sessions": Entry("sessions", "sessions", "List, show and delete the sessions of users."),
    "events": Entry("events", "events", "List and follow the event log."),
    "locks": Entry("locks", "locks", "List the held locks, and release one."),
    "keys": Entry("keys", "keys", "Show or forget what is stored under an idempotency key."),
    "metrics": Entry("metrics", "metrics", "Show the metrics of the queue and of the application."),
    "doctor": Entry("doctor", "doctor", "Check the storage and its environment, and say what to fix."),
    "config": Entry("config", "config", "Show every setting, and where its value comes from."),
    "migrate": Entry("migrate", "migrate", "Create the database, apply or show the pending migrations."),
    "prune": Entry("maintenance", "prune", "Delete records that are past their RETENTION_ settings."),
    "maintain": Entry("maintenance", "maintain", "Vacuum the jobs table on Postgres, if needed."),
    "export": Entry("transfer", "export", "Write the whole storage to a file."),
    "import": Entry("transfer", "import_", "Load an exported file into an empty storage."),
    "copy": Entry("transfer", "copy", "Copy a storage into an empty one, on any engine."),
    "conformance": Entry("conformance", "conformance", "Run the contract suite on engines."),
    # The old names of commands that are now under `jobs`.
    "dead-letters": Entry("jobs", "dead_letters", None),
    "replay": Entry("job_commands", "replay", None),
    "resolve": Entry("job_commands", "resolve", None),
    "cancel": Entry("job_commands", "cancel", None),
}


class _Commands(Mapping[str, Any]):
    """`COMMANDS`, each imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        entry = COMMANDS[name]
        found = getattr(import_module(f".{entry.module}", __package__), entry.attribute)
        if isinstance(found, typer.Typer):
            return get_group(found)
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(name, hidden=entry.summary is None)(found)
        return get_command(app)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class CommandGroup(TyperGroup):
    """The group of `COMMANDS`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment] # nothing adds to it

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the list for `--help`, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items() if entry.summary])
