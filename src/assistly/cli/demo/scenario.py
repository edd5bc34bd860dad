"""The course of the demo: webhooks, decisions, publishing (one worker is killed), and a prune at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from rich.progress import Progress

from assistly.storage import JobStatus, Storage

from .bot import decide, decide_at_once, handle_webhook, planned_decisions, review_dead_letters
from .calendar import CalendarPost
from .outcome import DemoOutcome, StoredData
from .simulation import FlakyPlatforms, SimulatedClock, SimulatedWorker, plan_faults, webhook_requests

_BEFORE = timedelta(days=1)
_INTAKE = timedelta(hours=12)
_PAUSE = timedelta(seconds=20)
_RESTART = timedelta(minutes=15)
_AFTER = timedelta(days=7)


def start_of(posts: Sequence[CalendarPost]) -> datetime:
    """The time at which the clock of the demo starts."""
    return min(post.at for post in posts) - _BEFORE


class Scenario:
    """One run of the demo, on an empty storage."""

    def __init__(
        self, storage: Storage, clock: SimulatedClock, posts: Sequence[CalendarPost], progress: Progress
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._posts = posts
        self._progress = progress
        self._platforms = FlakyPlatforms(clock, plan_faults({post.command for post in posts}))
        self._workers: list[SimulatedWorker] = []
        self._agenda: list[tuple[datetime, Callable[[], object]]] = []
        self._killed = False

    def run(self) -> DemoOutcome:
        """Run the demo, and return its outcome."""
        latency = self._storage.metrics.read().latency
        attacks = self._receive_webhooks()
        for number, (at, id, status) in enumerate(planned_decisions(self._storage)):
            action = decide if number else decide_at_once
            self._agenda.append((at, partial(action, self._storage, id, status)))
        self._start_worker("worker-1")
        self._start_worker("worker-2")
        self._publish()
        stored = StoredData.read(self._storage)
        self._clock.now += _AFTER
        pruned = self._storage.prune(force=True)
        kept, publications = StoredData.read(self._storage), self._platforms.publications
        return DemoOutcome(self._posts, publications, attacks, latency, stored, pruned, kept)

    def _receive_webhooks(self) -> int:
        """Handle all webhooks, and return how many of them were attacks."""
        pause = min(_PAUSE, _INTAKE / len(self._posts))
        requests = self._progress.track(
            webhook_requests(self._posts, self._clock, pause), description="webhooks", total=len(self._posts)
        )
        attacks = 0
        for request in requests:
            handle_webhook(self._storage, self._clock, request)
            attacks += request.is_attack
        return attacks

    def _publish(self) -> None:
        task = self._progress.add_task("published", total=len({post.command for post in self._posts}))
        handled = -1
        while handled:
            while (next_time := self._next_time()) is not None:
                self._clock.now = max(self._clock.now, next_time)
                for entry in [entry for entry in self._agenda if entry[0] <= self._clock.now]:
                    self._agenda.remove(entry)
                    entry[1]()
                self._work()
                self._progress.update(task, completed=len(self._platforms.publications))
            handled = review_dead_letters(self._storage, self._platforms)
            if handled:
                self._tell(f"the operator settled {handled} dead letters")

    def _next_time(self) -> datetime | None:
        """The next time at which a job is due, a lease expires, or an entry of the agenda is due."""
        claimed = self._storage.queue.list(status=JobStatus.PROCESSING, limit=1000)
        times = [self._storage.queue.next_due_at(), *(job.lease_until for job in claimed)]
        times += [at for at, _ in self._agenda]
        return min((at for at in times if at is not None), default=None)

    def _work(self) -> None:
        for worker in self._workers:
            worker.claim()
        first = self._workers[0]
        if not self._killed and len(first.claimed) >= 2:
            self._killed = True
            self._tell(f"{first.name} is killed, holding {len(first.claimed)} jobs")
            self._workers.remove(first)
            first.die()
            self._agenda.append((self._clock() + _RESTART, partial(self._start_worker, "worker-3")))
        for worker in self._workers:
            worker.publish()

    def _start_worker(self, name: str) -> None:
        self._workers.append(SimulatedWorker(name, self._storage, self._platforms))
        self._tell(f"{name} starts")

    def _tell(self, text: str) -> None:
        self._progress.console.print(f"{self._clock():%d %b %H:%M}  {text}")
