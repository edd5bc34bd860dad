"""Tries one mutant: chooses the tests, runs them in a copy, and says what became of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from .baseline import Baseline
from .changes import Mentions, changes
from .copies import Copy, Ended, Runner, Silent
from .edits import Mutant

Outcome = Literal["killed", "survived", "stopped", "unreached", "not applicable"]

_OLD = 1_000_000_000
_times = count(1)


@dataclass(frozen=True)
class Result:
    """`by` is the test that failed; `stopped`: the time was up before all concerned tests had run."""

    id: str
    place: str
    what: str
    outcome: Outcome
    by: str
    reason: str
    tests: int
    concerned: int
    seconds: float


class Choice:
    """Chooses and orders tests, by the sources as they are in `root` now.

    It learns: what killed a mutant of a function is tried first on the next.
    """

    def __init__(self, root: Path, baseline: Baseline, hang: float) -> None:
        self._texts = {
            path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
            for path in (root / "src").rglob("*.py")
        }
        self._hang = hang
        self._baseline = {
            test: known for test, known in baseline.items() if not known.failed and not known.skipped
        }
        self._mentions = Mentions(root)
        self._killers: Counter[tuple[str, str]] = Counter()
        self._by_function: dict[str, list[str]] = {}
        self._around: dict[str, list[str]] = {}
        for test, known in self._baseline.items():
            for function in known.functions:
                self._by_function.setdefault(function, []).append(test)
            for function in known.around:
                self._around.setdefault(function, []).append(test)
        self._called = {*self._by_function, *self._around}
        self.flaky: set[str] = set()

    def places(self, mutant: Mutant) -> set[str]:
        found: set[str] = set()
        for path, new in mutant.files.items():
            old = self._texts.get(path, "")
            if not path.endswith(".py") or new is None:
                continue
            changed = changes(old, new)
            found |= {
                f"{where}:{name}" for where, name in self._mentions.concerned(path, changed, self._called)
            }
            if changed.beyond and not changed.functions:
                found |= {place for place in self._called if place.startswith(f"{path}:")}
        return found

    def tests(self, mutant: Mutant, places: set[str]) -> list[str]:
        """Quick and specific ones first, then those of which fixtures alone reach the mutant.

        Last come those that start processes, whose calls are not seen.
        """
        counted = Counter(test for place in places for test in self._by_function.get(place, ()))
        reached = {*counted}
        if not reached and not all(path.endswith(".py") for path in mutant.files):
            reached = {*self._baseline}
        around = {test for place in places for test in self._around.get(place, ())} - reached
        spawning = {test for test, known in self._baseline.items() if known.spawns} - reached - around

        def cost(test: str) -> tuple[int, int, float]:
            known = self._baseline[test]
            kills = sum(self._killers[place, test] for place in places)
            return (
                2 if test in spawning else 1 if test in around else 0,
                -kills,
                (known.seconds + 0.02) * (len(known.functions) + 20) / (counted[test] + 1),
            )

        return [test for test in sorted(reached | around | spawning, key=cost) if test not in self.flaky]

    def remember(self, places: set[str], test: str) -> None:
        for place in places:
            self._killers[place, test] += 1

    def patience(self, tests: Sequence[str]) -> dict[str, float]:
        """A test that takes this long hangs, even on a busy machine."""
        return {test: self._hang + 5 * self._baseline[test].seconds for test in tests}

    def seconds(self, tests: Sequence[str]) -> float:
        return sum(self._baseline[test].seconds for test in tests)


def try_one(mutant: Mutant, copy: Copy, choice: Choice, limit: float) -> Result:
    began = monotonic()
    places = choice.places(mutant)
    tests = choice.tests(mutant, places)

    def result(outcome: Outcome, by: str = "", reason: str = "", ran: int = 0) -> Result:
        place = f"{next(iter(mutant.files))}:{mutant.line}"
        seconds = round(monotonic() - began, 2)
        return Result(mutant.id, place, mutant.what, outcome, by, reason, ran, len(tests), seconds)

    if not tests:
        return result("unreached")
    with _applied(mutant, copy.folder) as patches:
        ran, by, reason = _run(copy, copy.runner, tests, choice, limit, patches)
        if reason == "unpatched":
            ran, by, reason = _run_afresh(copy, tests, choice, limit)
    if reason in ("failed", "hangs", "ends the process"):
        if by and not _passes_without(copy, by, choice):
            choice.flaky.add(by)
            return try_one(mutant, copy, choice, limit)
        choice.remember(places, by)
    if not reason:
        return result("survived", ran=ran)
    return result("stopped" if reason == "stopped" else "killed", by, reason, ran)


def _run(
    copy: Copy,
    runner: Runner,
    tests: Sequence[str],
    choice: Choice,
    limit: float,
    patches: Mapping[str, tuple[str, str]],
) -> tuple[int, str, str]:
    """How many ran, the last one, and how it ended; no reason if all passed."""
    deadline = monotonic() + limit
    ran, by = 0, ""
    runner.run(tests=tests, patches=patches, first=True)
    try:
        for answer in runner.answers(choice.patience(tests)):
            if "unpatched" in answer:
                by = "unpatched"
            elif "begins" in answer:
                by = answer["begins"]
            elif "test" in answer:
                ran += 1
                if answer["failed"]:
                    by = f"failed:{by}"
                elif monotonic() > deadline and ran < len(tests):
                    runner.stop_child()
                    return ran, "", "stopped"
                else:
                    by = ""
    except Silent:
        runner.stop_child()
        return ran, by, "hangs"
    except Ended:
        copy.close()
        return ran, by, "ends the process"
    if by == "unpatched":
        return 0, "", "unpatched"
    if by.startswith("failed:"):
        return ran, by.removeprefix("failed:"), "failed"
    return (ran, by, "ends the process") if ran < len(tests) else (ran, "", "")


def _run_afresh(copy: Copy, tests: Sequence[str], choice: Choice, limit: float) -> tuple[int, str, str]:
    """In a new process that imports the mutant, with few files of tests at first: collecting takes long."""
    ran = 0
    by_file: dict[str, list[str]] = {}
    for test in tests:
        by_file.setdefault(test.partition("::")[0], []).append(test)
    for file, group in by_file.items():
        runner = copy.start([file])
        try:
            if not {*group} <= {*runner.ready(120)}:
                return ran, "", "cannot be imported"
            done, by, reason = _run(copy, runner, group, choice, limit, {})
        except (Ended, Silent):
            return ran, "", "cannot be imported"
        finally:
            runner.close()
        ran += done
        if reason:
            return ran, by, reason
    return ran, "", ""


def _passes_without(copy: Copy, test: str, choice: Choice) -> bool:
    """Once more without the mutant: a test that fails now and then kills nothing."""
    ran, _, reason = _run(copy, copy.runner, [test], choice, 120, {})
    return ran == 1 and not reason


@contextmanager
def _applied(mutant: Mutant, folder: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """On disk, for processes that tests start. Each text has its own time, which tells bytecode apart."""
    patches: dict[str, tuple[str, str]] = {}
    before: list[tuple[Path, bytes | None, Any]] = []
    try:
        for path, new in mutant.files.items():
            file = folder / path
            exists = file.is_file()
            before.append((file, file.read_bytes() if exists else None, file.stat() if exists else None))
            patches[path] = (file.read_text(encoding="utf-8") if exists else "", new or "")
            if new is None:
                file.unlink(missing_ok=True)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(new, encoding="utf-8")
            at = _OLD + next(_times)
            os.utime(file, (at, at))
        yield {path: texts for path, texts in patches.items() if path.endswith(".py")}
    finally:
        for file, data, status in before:
            if data is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(data)
                os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
