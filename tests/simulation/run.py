"""Runs a seed: sets everything up, lets things go wrong for a while, then checks that all of it ends."""

from __future__ import annotations

import gc
import logging
import os
import random as global_random
import secrets
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

from assistly.storage import Storage
from assistly.storage.errors import StorageError
from assistly.storage.records import JobStatus
from assistly.storage.stores import idempotency

from .backend import Violation
from .clients import Client, Reader
from .engines import Engine
from .scheduler import Process, Scheduler, SimulatedSecrets, SimulatedThreading, SimulatedTime, Stuck
from .workers import PLATFORMS, WorkerProcess
from .world import World

WORKERS = 3
CLIENTS = 3
_SIMULATED = ("assistly.storage", "assistly.worker")
_REAL = ("assistly.storage.engines.postgres", "assistly.storage.testing", "assistly.storage.aio")
_END_SECONDS = 240.0
"""Simulated seconds within which everything ends after the last fault."""
_NOTICED_SECONDS = 1.5
"""Simulated seconds within which an idle worker publishes a job that is due."""
_MOST_LOOKS = 20
"""How often an idle worker may look for jobs in ten seconds."""

Broken = (Violation, Stuck)


@dataclass
class Failure:
    """A seed that failed."""

    engine: str
    seed: int
    message: str
    history: list[str]

    def __str__(self) -> str:
        lines = [*self.history, "", f"{self.engine}, seed {self.seed}: {self.message}"]
        return "\n".join(lines)


def run_seed(engine: Engine, seed: int, *, last: int | None = 150) -> Failure | None:
    """Run one seed; None if no rule was broken. `last`: how many lines of the history a failure has."""
    logger = logging.getLogger("assistly")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    state = global_random.getstate()
    global_random.seed(seed)
    world = World(seed, engine.name)
    try:
        with simulated(world.scheduler, seed), engine.open() as inner:
            world.inner = inner
            try:
                _Run(world).run()
            finally:
                world.scheduler.close()
        return None
    except Exception as error:  # noqa: BLE001 - every failure of the code under test is reported
        message = f"{world.profile}\n{type(error).__name__}: {error}"
        if not isinstance(error, Broken):
            message += "\n" + "".join(traceback.format_exception(error))
        return Failure(engine.name, seed, message, world.history.lines(last))
    finally:
        global_random.setstate(state)
        logger.setLevel(level)


@contextmanager
def simulated(scheduler: Scheduler, seed: int) -> Iterator[None]:
    """Let the modules under test start threads, wait and read the time in the simulation."""
    secret = SimulatedSecrets(seed)
    replaced = (
        ("threading", threading, SimulatedThreading(scheduler)),
        ("time", time, SimulatedTime(scheduler)),
        ("secrets", secrets, secret),
    )
    changed: list[tuple[ModuleType, str, Any]] = []
    for name, module in [*sys.modules.items()]:
        if name.startswith(_SIMULATED) and not name.startswith(_REAL):
            for attribute, real, fake in replaced:
                if getattr(module, attribute, None) is real:
                    changed.append((module, attribute, real))
                    setattr(module, attribute, fake)
    changed.append((idempotency, "os", os))
    setattr(idempotency, "os", secret)  # noqa: B010 - to type checkers it is not there
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for module, attribute, real in changed:
            setattr(module, attribute, real)
        if was_enabled:
            gc.enable()


class _Run:
    """What the driver does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scheduler = world.scheduler
        self._numbers = 0
        self._process = self._scheduler.driver.process
        self._storage = world.open(self._process)
        self._clients: list[tuple[Process, Any]] = []
        self._reader = Reader(world, self._storage)

    def run(self) -> None:
        world = self._world
        self._scheduler.start("reader", Process("reader"), self._reader.run)
        for _ in range(WORKERS):
            self._start_worker()
        for _ in range(CLIENTS):
            self._start_client(world.random.randrange(4, 13))
        self._chaos()
        self._calm_down()
        self._until_all_has_ended()
        self._answer_what_is_unknown()
        for platform in PLATFORMS:
            self._storage.platforms.resume(platform)
        self._idle()
        self._stop_workers()
        self._audit()

    def _start_worker(self, *, until_idle: bool = False) -> None:
        self._numbers += 1
        WorkerProcess(self._world, self._numbers, until_idle=until_idle)

    def _start_client(self, count: int) -> None:
        self._numbers += 1
        world = self._world
        # Clients share a process now and then, and so its batches.
        if self._clients and world.random.random() < 0.6 and self._clients[-1][0].alive:
            process, storage = self._clients[-1]
        else:
            process = Process(f"process-{self._numbers}")
            storage = world.open(process)
        self._clients.append((process, storage))
        client = Client(world, process, storage, self._numbers, count)
        self._scheduler.start(f"client-{self._numbers}", process, client.run)

    def _chaos(self) -> None:
        world, profile = self._world, self._world.profile
        random = world.random
        steps: list[Any] = []
        if profile.kills:
            steps += [self._kill_a_worker, self._kill_a_worker, self._kill_a_client]
        if profile.stops:
            steps += [self._stop_a_worker, lambda: self._start_worker(until_idle=True)]
        if profile.jumps:
            steps += [self._jump, self._jump]
        until = self._scheduler.now + profile.seconds
        while self._scheduler.now < until:
            if random.random() < 0.5:
                world.strike_after(random.randrange(1, 60), 3.0)
            else:
                world.meet(random.randrange(1, 5))
            if steps:
                random.choice(steps)()

    def _living(self) -> list[WorkerProcess]:
        return [each for each in self._world.workers if each.alive and not each.has_ended]

    def _kill_a_worker(self) -> None:
        living = [each for each in self._living() if not each.stopping]
        if living:
            victim = self._world.random.choice(living)
            self._world.note(f"{victim.name} is killed")
            self._scheduler.kill(victim)
            self._start_worker()

    def _kill_a_client(self) -> None:
        living = [process for process, _ in self._clients if process.alive]
        if living:
            victim = self._world.random.choice(living)
            self._world.note(f"{victim.name} is killed")
            self._scheduler.kill(victim)
            self._start_client(self._world.random.randrange(3, 10))

    def _stop_a_worker(self) -> None:
        living = [each for each in self._living() if not each.stopping and not each._until_idle]
        if living:
            worker = self._world.random.choice(living)
            worker.stop()
            self._start_worker()
            self._scheduler.start("watch", Process("watcher"), lambda: self._watch(worker))

    def _watch(self, worker: WorkerProcess) -> None:
        until = self._scheduler.now + worker.longest_stop()
        while self._scheduler.now < until and worker.alive and not worker.has_ended:
            self._scheduler.sleep(1.0)
        if worker.alive and not worker.has_ended:
            raise Violation(f"{worker.name} was told to stop, and still runs {worker.longest_stop()} s later")

    def _jump(self) -> None:
        random = self._world.random
        seconds = random.choice((-3600.0, -30.0, -3.0, -0.5, 0.5, 3.0, 30.0, 3600.0))
        self._world.jump(timedelta(seconds=seconds))

    def _calm_down(self) -> None:
        world = self._world
        world.note("nothing goes wrong from now on")
        world.faults.on = False
        world.chaos = False
        if world.offset < world.largest_offset:
            world.jump(world.largest_offset - world.offset)

    def _until_all_has_ended(self) -> None:
        until = self._scheduler.now + _END_SECONDS
        while (left := self._left()) and self._scheduler.now < until:
            self._scheduler.sleep(1.0)
        if left:
            raise Violation(f"{_END_SECONDS:.0f} s after the last fault this is left: {left}")

    def _answer_what_is_unknown(self) -> None:
        """An operator looks at the platforms."""
        operator = Client(self._world, self._process, self._storage, 0, 0)
        for job in [*self._world.tables.jobs.values()]:
            if job.outcome_unknown:
                operator.answer(job)
        self._until_all_has_ended()

    def _left(self) -> str:
        world = self._world
        clients = [thread.name for thread in self._scheduler.living() if thread.name.startswith("client")]
        if clients:
            return f"the clients {clients}"
        jobs = [
            f"job {job.id}, {job.status}, due at {job.due_at}"
            for job in world.tables.jobs.values()
            if job.status not in (JobStatus.POSTED, JobStatus.DEAD_LETTER, JobStatus.CANCELLED)
        ]
        if jobs:
            return "; ".join(jobs)
        scripts = [each.name for each in self._living() if each._until_idle or each.stopping]
        return f"the workers {scripts}" if scripts else ""

    def _idle(self) -> None:
        """Workers notice a job that is due at once, and don't look all the time for others."""
        world, scheduler = self._world, self._scheduler
        workers = self._living()
        scheduler.sleep(2.0)
        if world.simulates_waits and world.random.random() < 0.3:
            looks = sum(world.lookers.get(each.name, 0) for each in workers)
            scheduler.sleep(10.0)
            looks = sum(world.lookers.get(each.name, 0) for each in workers) - looks
            if looks > _MOST_LOOKS * len(workers):
                raise Violation(f"{len(workers)} idle workers looked {looks} times for jobs in ten seconds")
        for delay in (0.0, 1.7):
            at = world.today() + timedelta(seconds=delay)
            scheduler.sleep(world.random.random())
            job = self._storage.queue.schedule("free", "noticed", max(at, world.today()))
            due_in = (job.scheduled_at - world.today()).total_seconds()
            scheduler.sleep(due_in + _NOTICED_SECONDS)
            if not world.rules.jobs[job.id].claims:
                raise Violation(
                    f"job {job.id} has been due for {_NOTICED_SECONDS} s, and no idle worker noticed"
                )
        self._until_all_has_ended()

    def _stop_workers(self) -> None:
        workers = self._living()
        for worker in workers:
            worker.stop()
        for worker in workers:
            self._watch(worker)

    def _audit(self) -> None:
        world = self._world
        tables, rules, promises = world.tables, world.rules, world.promises
        for id, track in rules.jobs.items():
            job = tables.jobs.get(id)
            if job is None:
                if not track.removed and world.profile.retention.posted_age is None:
                    raise Violation(f"job {id} is gone, and nobody removed it")
                continue
            self._audit_job(job)
        keys = [job.idempotency_key for job in tables.jobs.values() if job.idempotency_key is not None]
        if len(keys) != len(set(keys)):
            raise Violation(f"a key has two jobs: {sorted(keys)}")
        self._audit_counts()
        while self._reader.read(100):
            pass
        if self._reader.seen != sorted(tables.events):
            raise Violation(f"the reader saw the events {self._reader.seen} of {sorted(tables.events)}")
        if not promises.appended <= set(self._reader.seen):
            raise Violation(f"events were acknowledged and lost: {promises.appended - {*self._reader.seen}}")
        self._audit_reads()

    def _audit_job(self, job: Any) -> None:
        rules = self._world.rules
        if job.status is JobStatus.POSTED:
            track = rules.jobs[job.id]
            if rules.published(job.id) != 1 and not self._posted_by_hand(job) and not track.misjudged:
                raise Violation(f"job {job.id} is posted, and went out {rules.published(job.id)} times")
        elif job.status is JobStatus.CANCELLED:
            if rules.published(job.id):
                raise Violation(f"job {job.id} was cancelled, and went out")
        elif not job.dead_letter_reason or job.dead_letter_at is None:
            raise Violation(f"job {job.id} is a dead letter without a reason: {job}")
        elif job.dead_letter_reason.startswith("outcome unknown: ") != job.outcome_unknown:
            raise Violation(f"job {job.id} is a dead letter for another reason than it says: {job}")
        elif rules.published(job.id) and not job.dead_letter_reason.startswith("outcome unknown: "):
            raise Violation(f"job {job.id} went out, and is a dead letter: {job.dead_letter_reason}")
        if job.retries > job.max_retries or job.worker_id is not None or job.lease_until is not None:
            raise Violation(f"job {job.id} has ended as {job}")

    def _posted_by_hand(self, job: Any) -> bool:
        return job.remote_id is None and not self._world.rules.jobs[job.id].claims[job.claim].calls

    def _audit_counts(self) -> None:
        tables, promises = self._world.tables, self._world.promises
        for user in {*promises.counted, *promises.perhaps}:
            row = tables.sessions.get(user)
            counted, perhaps = promises.counted[user], promises.perhaps[user]
            count = 0 if row is None else row.data["n"]
            # A client that was killed may have counted without being told.
            most = counted + perhaps + self._killed()
            if not counted <= count <= most:
                raise Violation(
                    f"{user} was counted up {counted} times, perhaps {perhaps} more, and is {count}"
                )
        metrics = self._storage.metrics.read()
        stored = Counter(metrics.counters)
        stored["requests"] = metrics.latency.count
        for name in {*promises.metrics} - {"nanoseconds"}:
            least = promises.metrics[name]
            most = least + promises.perhaps_metrics[name] + 5 * self._killed()
            if not least <= stored[name] <= most:
                raise Violation(f"{name} was counted {least} to {most} times, and is {stored[name]}")

    def _killed(self) -> int:
        """How many operations of clients were under way when they were killed, at most."""
        return 13 * sum(not process.alive for process in {process for process, _ in self._clients})

    def _audit_reads(self) -> None:
        """A new storage reads what the reference has."""
        storage: Storage = self._world.open(self._process)
        try:
            jobs = storage.queue.list(limit=1000)
        except StorageError as error:
            raise Violation(f"the jobs cannot be read: {error!r}") from error
        if jobs != [self._world.tables.jobs[id] for id in sorted(self._world.tables.jobs)]:
            raise Violation("the jobs are read differently from how they were stored")
