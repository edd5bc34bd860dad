"""The command `python -m tests.simulation`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from queue import Empty
from typing import Any

from .engines import PostgresEngine, open_engine, remove_folders
from .planted import PLANTED, planted
from .run import Failure, run_seed

ENGINES = ("memory", "sqlite", "postgres")
SEEDS = 2000
_HANGS_SECONDS = 120.0
"""Real seconds after which a seed that has not ended is reported: it goes round in circles."""
_REPORT_SECONDS = 15.0
_DESCRIPTION = """\
Runs workers and clients on an engine, in an order and with faults that a seed decides, and
checks that no rule of the contract is broken. The first seed that fails ends the run: its
history is printed, and the command that replays it. Exit code 1 after a failure.

docs/simulation.md explains how to read a history."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds; return 1 if one of them failed."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _replay(options)
    return _Runs(options).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=_DESCRIPTION,
        epilog="The bugs that can be planted:\n" + "".join(f"  {bug}\n" for bug in sorted(PLANTED)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", choices=ENGINES, default="memory", help="default: memory")
    parser.add_argument(
        "--seeds",
        type=_positive(int),
        help=f"how many seeds (default: {SEEDS}, or with --minutes as many as fit)",
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--minutes", type=_positive(float), help="begin no seed after this time")
    parser.add_argument(
        "--seed", type=int, help="replay this seed alone; if it fails, print all of its history"
    )
    parser.add_argument(
        "--processes",
        type=_positive(int),
        default=os.cpu_count() or 1,
        help="how many seeds run at once (default: one for each processor)",
    )
    parser.add_argument(
        "--last", type=_positive(int), default=150, help="lines of the history to print (default: 150)"
    )
    parser.add_argument("--url", help="of a PostgreSQL server (default: one of its own is started)")
    parser.add_argument(
        "--planted",
        choices=sorted(PLANTED),
        metavar="BUG",
        help="run with this bug in the code, which the simulation has to find; the names are below",
    )
    return parser


def _positive(number: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = number(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return value

    parse.__name__ = number.__name__
    return parse


def _replay(options: argparse.Namespace) -> int:
    engine = open_engine(options.engine, options.url)
    try:
        with planted(options.planted):
            failure = run_seed(engine, options.seed, last=None)
    finally:
        engine.close()
    print(failure or f"{options.engine}, seed {options.seed}: no rule was broken")
    return 1 if failure else 0


class _Runs:
    """Runs seeds in several processes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._context = multiprocessing.get_context("spawn")
        count = options.seeds
        if count is None and options.minutes is None:
            count = SEEDS
        self._end = None if count is None else options.first + count
        self._until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
        self._next = self._context.Value("q", options.first)
        self._failures: Queue[Failure] = self._context.Queue()

    def run(self) -> int:
        options = self._options
        server: Any = PostgresEngine(options.url) if options.engine == "postgres" else None
        url = None if server is None else server.url
        began = time.monotonic()
        # The seed that each process runs, and since when.
        states = [self._context.Array("d", [-1.0, 0.0]) for _ in range(max(1, options.processes))]
        processes = [
            self._context.Process(
                target=_run_seeds,
                args=(options.engine, url, options.planted, options.last, self._next, self._end),
                kwargs={"until": self._until, "state": state, "failures": self._failures},
                daemon=True,
            )
            for state in states
        ]
        for process in processes:
            process.start()
        try:
            failure = self._first_failure(processes, states, began)
        except KeyboardInterrupt:
            failure = None
            print("interrupted", file=sys.stderr)
        for process in processes:
            process.kill()
            process.join()
            remove_folders(process.pid or 0)
        if server is not None:
            server.close()
        done = self._next.value - options.first
        if failure is not None:
            print(failure)
            again = f"python -m tests.simulation --engine {options.engine} --seed {failure.seed}"
            print(f"replay it: {again}" + (f" --planted {options.planted}" if options.planted else ""))
            return 1
        seconds = time.monotonic() - began
        bug = f" The planted bug was not found: {options.planted}." if options.planted else ""
        print(
            f"{options.engine}: {done} seeds, from seed {options.first}, in {seconds:.0f} s: "
            f"no rule was broken.{bug}"
        )
        return 0

    def _first_failure(self, processes: list[Any], states: list[Any], began: float) -> Failure | None:
        reported = began
        while True:
            try:
                return self._failures.get(timeout=0.1)
            except Empty:
                pass
            now = time.monotonic()
            for process, state in zip(processes, states, strict=True):
                seed, since = state
                if process.exitcode not in (None, 0):
                    return Failure(
                        self._options.engine,
                        int(seed),
                        f"the process that ran the seed ended with the exit code {process.exitcode}",
                        [],
                    )
                if process.exitcode is None and seed >= 0 and now - since > _HANGS_SECONDS:
                    message = f"the seed has not ended after {_HANGS_SECONDS:.0f} real seconds"
                    return Failure(self._options.engine, int(seed), message, [])
            if all(process.exitcode == 0 for process in processes):
                try:
                    return self._failures.get(timeout=0.5)
                except Empty:
                    return None
            if now - reported > _REPORT_SECONDS:
                reported = now
                done = self._next.value - self._options.first
                print(f"{done} seeds begun in {now - began:.0f} s", file=sys.stderr)


def _run_seeds(
    name: str,
    url: str | None,
    bug: str | None,
    last: int,
    following: Synchronized[int],
    end: int | None,
    *,
    until: float | None,
    state: Any,
    failures: Queue[Failure],
) -> None:
    engine = open_engine(name, url)
    try:
        with planted(bug):
            while until is None or time.monotonic() < until:
                with following.get_lock():
                    seed = following.value
                    if end is not None and seed >= end:
                        return
                    following.value += 1
                state[:] = [seed, time.monotonic()]
                failure = run_seed(engine, seed, last=last)
                if failure is not None:
                    failures.put(failure)
                    return
    finally:
        engine.close()
