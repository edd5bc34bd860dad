"""docs/monitoring.md lists what is exposed and logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from assistly.monitoring.monitor import Monitor
from assistly.storage import Job, MemoryBackend, Storage
from assistly.worker import EventKind, Permanent, Retry, Unknown, Worker, WorkerEvent
from assistly.worker.counts import Ending
from assistly.worker.events import _LEVELS, EVENT_NAMES, log_fields

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
TEXT = PAGE.read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """The cells of all tables with this first column."""
    rows: list[list[str]] = []
    inside = False
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == header:
            inside = True
        elif inside and not cells[0].startswith("---"):
            rows.append(cells)
    return rows


def words(cell: str) -> set[str]:
    return {*re.findall(r"`([^`]+)`", cell)}


def exposed(monitor: Monitor) -> dict[str, tuple[str, set[str]]]:
    """The type and the labels of each metric of ours, by its name in the text format."""
    text, _ = monitor.metrics("")
    found: dict[str, tuple[str, set[str]]] = {}
    families: Iterable[Metric] = text_string_to_metric_families(text.decode())
    for family in families:
        labels = {name for sample in family.samples for name in sample.labels}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name.startswith("assistly_"):
            found[name] = (family.type, labels - {"le"})
    return found


def test_the_metrics(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres()
    storage.queue.schedule("x", "hello")
    storage.queue.schedule("y", "later", datetime.now(UTC) + timedelta(days=1))
    storage.metrics.increment("requests")
    monitor = Monitor()
    seen: list[dict[str, tuple[str, set[str]]]] = []

    def publish(job: Job) -> None:
        if job.content == "look":
            seen.append(exposed(monitor))

    worker = Worker(storage, {"x": publish}, concurrency=1)
    monitor.attach(storage, worker)
    worker.run_until_idle()
    storage.queue.schedule("x", "look")
    worker.run_until_idle()
    listed = {
        name: ("gauge" if kind == "info" else kind, words(labels))
        for cell, kind, labels, _ in table("metric")
        for name in words(cell)
    }
    assert listed == seen[0]


def test_the_outcomes() -> None:
    endings = {ending.replace(" ", "_") for ending in get_args(Ending)}
    assert {name for cell, _ in table("outcome") for name in words(cell)} == endings


def test_all_metrics_that_the_page_mentions_are_listed() -> None:
    listed = {name for cell, *_ in table("metric") for name in words(cell)}
    assert {*re.findall(r"\bassistly_\w+", TEXT)} == listed


def test_the_events_and_their_levels() -> None:
    rows = table("event")
    assert [kind for kind in EventKind if kind not in EVENT_NAMES] == []
    assert {name for cell, *_ in rows for name in words(cell)} == {*EVENT_NAMES.values()}
    levels = {cell.strip("`"): level.partition(",")[0] for cell, level, _ in rows}
    assert levels == {
        name: logging.getLevelName(_LEVELS.get(kind, logging.ERROR)) for kind, name in EVENT_NAMES.items()
    }


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


def test_the_fields(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    def raising(error: Exception) -> Callable[[Job], None]:
        def publish(_: Job) -> None:
            raise error

        return publish

    publishers: dict[str, Any] = {
        "good": lambda _: "remote-1",
        "bad": raising(Permanent("no\nand never")),
        "dark": raising(Unknown("no answer")),
        "flaky": raising(ValueError("no")),
        "slow": raising(Retry("too much", after=60)),
    }
    ids = {platform: storage.queue.schedule(platform, "hello").id for platform in publishers}
    with caplog.at_level(logging.DEBUG, "assistly.worker"):
        Worker(storage, publishers, worker_id="w").run_until_idle()
    fields = {name for cell, *_ in table("field") for name in words(cell)}
    found = {
        (record.event, record.platform): {
            name: vars(record)[name] for name in fields if hasattr(record, name)
        }
        for record in caplog.records
        if hasattr(record, "event") and hasattr(record, "platform")
    }
    assert {name for name, platform in found if platform == "good"} == {"job.claimed", "job.published"}
    for (name, platform), values in found.items():
        assert (values["event"], values["worker_id"], values["platform"]) == (name, "w", platform)
        assert values.get("job_id") == (None if name == "platform.paused" else ids[platform])
    assert {*found["job.published", "good"]} == {
        *("event", "worker_id", "platform", "job_id", "remote_id", "seconds")
    }
    assert found["job.published", "good"]["remote_id"] == "remote-1"
    assert found["job.dead", "bad"]["error"] == "no and never"
    assert found["job.outcome_unknown", "dark"]["error"] == "outcome unknown: no answer"
    assert found["job.failed", "flaky"]["until"] > datetime.now(UTC)
    assert found["platform.paused", "slow"]["seconds"] == 60
    assert found["platform.paused", "slow"]["until"] > datetime.now(UTC)
    assert found["job.snoozed", "slow"]["until"] > datetime.now(UTC)
    used = {name for values in found.values() for name in values}
    assert used == fields


def test_every_kind_has_its_fields() -> None:
    for kind in EventKind:
        fields = log_fields(WorkerEvent(kind, "w", "x"))
        assert fields == {"event": EVENT_NAMES[kind], "worker_id": "w", "platform": "x"}
        clashes = {*fields, "job_id", "remote_id", "error", "until", "seconds"} & {
            *vars(logging.makeLogRecord({})),
            "message",
            "asctime",
        }
        assert clashes == set()
