"""What commands, `--json`, /metrics and the page say is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from assistly.storage import SqliteBackend, Storage
from assistly.views.exposition import exposition
from assistly.views.metrics import collect
from assistly.web import create_app
from cli.conftest import Run, run
from web.browsing import Browser, Document
from web.filling import dead_letter, fill

__all__ = ["run"]


def test_all_say_the_same(path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", str(path))
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        fill(storage)
        for _ in range(3):
            dead_letter(storage, "mastodon")
        storage.queue.schedule("bluesky", "due")
        status = json.loads(run("status", "--json")[1])
        numbers = json.loads(run("metrics", "--json")[1])
        metrics = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(exposition(collect(storage)))
            for sample in family.samples
        }
        page = Browser(create_app(storage)).open("/")
    rows = table(page, "Jobs by platform")
    listed = {platform["name"]: platform for platform in status["platforms"]}
    assert rows.keys() == listed.keys()
    for name, row in rows.items():
        counts = {status: count["count"] for status, count in listed[name]["counts"].items()}
        waiting = counts.get("scheduled", 0) + counts.get("retrying", 0)
        shown = [
            waiting,
            listed[name]["due"]["count"],
            counts.get("processing", 0),
            counts.get("dead_letter", 0),
        ]
        assert [int(text) for text in row[:4]] == shown, name
        for state in ("scheduled", "retrying", "processing", "dead_letter"):
            if state in counts:
                assert metrics["assistly_jobs", *sorted((name, state))] == counts[state]
        due = metrics.get(("assistly_jobs_due", name), 0)
        assert due == listed[name]["due"]["count"]
    found = {(depth["platform"], depth["status"]): depth["count"]["count"] for depth in numbers["jobs"]}
    for (name, state), count in found.items():
        assert metrics["assistly_jobs", *sorted((name, state))] == count
    unknown = status["unknown_count"]["count"]
    assert (unknown, numbers["unknown_outcomes"]["count"], metrics["assistly_unknown_outcomes",]) == (1, 1, 1)
    assert "1 with an unknown outcome" in page.text
    assert re.search(rf"\b{status['dead_letters']['count']} other dead letters?", page.text)
    assert re.search(rf"\b{status['pending_approvals']['count']} approvals? pending", page.text)
    for state, count in status["counts"].items():
        assert re.search(rf"\b{state.replace('_', ' ')} {count['count']}\b", page.text), state


def table(page: Document, caption: str) -> dict[str, list[str]]:
    """The cells of each row of the table, by its heading."""
    rows = page.tables[next(name for name in page.tables if name.startswith(caption))]
    return {row[0]: row[1:] for row in rows[1:]}
