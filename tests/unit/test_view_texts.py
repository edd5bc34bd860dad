"""How numbers and deeds are written for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage import MemoryBackend, Storage
from assistly.views.jobs import deed
from assistly.views.status import due_text, status
from assistly.views.text import file_size, jobs_text

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (800, "0.8 kB"), (99_999, "100.0 kB"), (100_000, "0.1 MB"), (1_234_567_890, "1,234.6 MB")],
)
def test_sizes(count: int, text: str) -> None:
    assert file_size(count) == text


def test_jobs_by_status() -> None:
    assert [jobs_text(count, "dead_letter") for count in (1, 3)] == ["1 dead letter", "3 dead letters"]
    assert jobs_text(1000, "scheduled") == "1,000 scheduled"


@pytest.mark.parametrize(
    ("verb", "payload", "text"),
    [
        ("add", {"by": "root"}, "root added it"),
        ("cancel", {"by": "kim", "note": "wrong price"}, "kim cancelled it (wrong price)"),
        ("resolve", {"by": "kim", "posted": True}, "kim resolved it as posted"),
        ("resolve", {"posted": False}, "somebody resolved it as not posted"),
    ],
)
def test_what_people_did(verb: str, payload: dict[str, Any], text: str) -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        assert deed(storage.events.append(f"operator.jobs.{verb}", payload)) == text


def test_what_is_due_on_a_platform() -> None:
    with Storage(MemoryBackend(), clock=lambda: NOW, auto_prune=False) as storage:
        for text in ("1 job has been due for 2 h", "2 jobs are due, the first for 2 h"):
            storage.queue.schedule("x", "a", NOW - timedelta(hours=2))
            (platform,) = status(storage, now=NOW).platforms
            assert due_text(platform, NOW) == text
