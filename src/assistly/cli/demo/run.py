"""The scenario: intake, decisions, publication with a worker killed half-way, review, retention."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from assistly.storage import JobStatus, PruneReport, Storage

from .calendar import Post
from .desk import Desk
from .people import Operator, Reviewers
from .summary import Inside, Outside, Summary, check_retention, run_checks
from .worker import Worker
from .world import Publisher, Senders, SimulatedClock, plan_faults

_BEFORE = timedelta(days=1)
_INTAKE = timedelta(hours=12)
_PAUSE = timedelta(seconds=20)
_RESTART = timedelta(minutes=15)
_AFTER = timedelta(days=7)
_ENOUGH_TO_KILL = 2


class Progress(Protocol):
    def stage(self, name: str, total: int) -> None: ...
    def reach(self, done: int) -> None: ...
    def tell(self, moment: datetime, text: str) -> None: ...


def start_of(posts: Sequence[Post]) -> datetime:
    return min(post.at for post in posts) - _BEFORE


class Demo:
    def __init__(
        self, storage: Storage, clock: SimulatedClock, posts: Sequence[Post], progress: Progress
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._posts = posts
        self._progress = progress
        self._latency = storage.metrics.read().latency
        commands = {post.command for post in posts}
        self._publisher = Publisher(clock, plan_faults(commands))
        self._senders = Senders(posts, clock, min(_PAUSE, _INTAKE / len(posts)))
        self._workers = [Worker(f"worker-{number}", storage, self._publisher) for number in (1, 2)]
        self._agenda: list[tuple[datetime, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._kill_at, self._kill_with = _busiest(posts)
        self._killed = False

    def run(self) -> Summary:
        self._take_in()
        self._plan_decisions()
        self._publish()
        inside = Inside.read(self._storage, self._latency)
        outside = Outside(self._posts, self._publisher.record, self._senders.attacks)
        pruned = self._retain()
        checks = [*run_checks(outside, inside), check_retention(outside, inside, self._storage, pruned)]
        return Summary(outside, inside, pruned, checks)

    def _retain(self) -> PruneReport:
        self._progress.stage("retention", 1)
        self._clock.advance(_AFTER)
        pruned = self._storage.prune(force=True)
        self._progress.reach(1)
        return pruned

    def _take_in(self) -> None:
        desk = Desk(self._storage, self._clock)
        self._progress.stage("webhooks", len(self._posts))
        for number, request in enumerate(self._senders.requests(), start=1):
            desk.receive(request)
            self._progress.reach(number - self._senders.attacks)

    def _plan_decisions(self) -> None:
        reviewers = Reviewers(self._storage)
        for number, decision in enumerate(reviewers.agenda()):
            decide = reviewers.decide if number else reviewers.decide_both_at_once
            self._plan(decision.moment, partial(decide, decision))

    def _publish(self) -> None:
        operator = Operator(self._storage, self._publisher)
        self._progress.stage("published", len({post.command for post in self._posts}))
        while True:
            while (moment := self._next_moment()) is not None:
                self._clock.advance_to(moment)
                self._act()
                self._work()
                self._progress.reach(len(self._publisher.record))
            handled = operator.review()
            if not handled:
                return
            self._progress.tell(self._clock(), f"the operator settled {handled} dead letters")

    def _next_moment(self) -> datetime | None:
        """When a job falls due, a lease runs out or somebody has something to do."""
        held = self._storage.queue.list(status=JobStatus.PROCESSING, limit=1000)
        moments = [job.lease_until for job in held] + [self._storage.queue.next_due_at()]
        if self._agenda:
            moments.append(self._agenda[0][0])
        return min((moment for moment in moments if moment is not None), default=None)

    def _plan(self, moment: datetime, action: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), action))

    def _act(self) -> None:
        while self._agenda and self._agenda[0][0] <= self._clock():
            heapq.heappop(self._agenda)[2]()

    def _work(self) -> None:
        for worker in self._workers:
            worker.claim()
        if not self._killed and self._clock() >= self._kill_at and self._workers[0].holds >= self._kill_with:
            self._kill(self._workers.pop(0))
        for worker in self._workers:
            worker.publish()

    def _kill(self, worker: Worker) -> None:
        self._killed = True
        self._progress.tell(self._clock(), f"{worker.name} is killed, holding {worker.holds} jobs")
        worker.die_half_way()
        self._plan(self._clock() + _RESTART, self._start_another)

    def _start_another(self) -> None:
        self._workers.append(Worker("worker-3", self._storage, self._publisher))
        self._progress.tell(self._clock(), "worker-3 starts")


def _busiest(posts: Sequence[Post]) -> tuple[datetime, int]:
    """The first moment with the most posts, and how many jobs a worker must hold there to be killed."""
    moments = Counter(post.at for post in posts if not post.approval) or Counter(post.at for post in posts)
    most = max(moments.values())
    return min(moment for moment, count in moments.items() if count == most), min(most, _ENOUGH_TO_KILL)
