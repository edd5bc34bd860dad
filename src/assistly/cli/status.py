"""`assistly status`."""

from __future__ import annotations

from .opening import open_environment
from .tables import print_table, shown_time


def status() -> None:
    """Show how many jobs there are in each state, what is next, the lock and the metrics."""
    with open_environment() as storage:
        seconds = storage.ping()
        lock = storage.lock.current()
        metrics = storage.metrics.read()
        due = storage.queue.next_due_at()
        rows = [(str(state), str(count)) for state, count in storage.queue.counts().items()]
    rows.append(("next due", shown_time(due) if due else "nothing"))
    holder = f"{lock.owner_id}, fence {lock.fence}, until {shown_time(lock.expires_at)}" if lock else "free"
    rows.append(("worker lock", holder))
    rows += [(name, str(value)) for name, value in sorted(metrics.counters.items())]
    latency = metrics.latency
    if latency.count:
        mean = latency.total_ms / latency.count
        rows.append(
            ("latency", f"{latency.count} requests, mean {mean:.1f} ms, most {latency.max_ms:.1f} ms")
        )
    rows.append(("ping", f"{seconds * 1000:.1f} ms"))
    print_table((), rows)
