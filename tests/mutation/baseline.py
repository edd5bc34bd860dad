"""One run of the tests without a mutant: how long each takes, and which functions it calls."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .copies import Copy, Ended, Silent, Stopped

PATIENCE = 180.0
"""Seconds that a test may take in this run."""


@dataclass
class Known:
    """`functions` are places like ``path:qualified name``; `around` those that only fixtures called."""

    seconds: float
    failed: bool
    skipped: bool
    spawns: bool
    functions: list[str] = field(default_factory=list)
    around: list[str] = field(default_factory=list)


Baseline = dict[str, Known]


def _is_source(path: Path) -> bool:
    """Of what tests run, other than files of tests, which count each for itself."""
    return (
        path.suffix in (".py", ".sql")
        and path.parent.name != "mutation"
        and not path.name.startswith("test_")
    )


class Kept:
    """Results of earlier runs on the same sources, one file for each file of tests."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = Path(tempfile.gettempdir()) / "assistly-mutation-baselines"
        self._folder.mkdir(exist_ok=True)
        self._sources = hashlib.sha256(f"2 {sys.version}".encode())
        folders = [root / name for name in ("src", "tests", "migrations")]
        for path in sorted(path for folder in folders for path in folder.rglob("*") if _is_source(path)):
            self._sources.update(path.relative_to(root).as_posix().encode() + path.read_bytes())

    def _place(self, file: str) -> Path:
        found = self._sources.copy()
        found.update(file.encode() + (self._root / file).read_bytes())
        return self._folder / f"{found.hexdigest()[:24]}.json"

    def load(self, file: str) -> Baseline:
        """By test; empty if the file was not measured."""
        place = self._place(file)
        if not place.is_file():
            return {}
        stored = json.loads(place.read_text(encoding="utf-8"))
        names = stored["functions"]
        return {
            test: Known(
                **(
                    known
                    | {kind: [names[number] for number in known[kind]] for kind in ("functions", "around")}
                )
            )
            for test, known in stored["tests"].items()
        }

    def save(self, file: str, baseline: Baseline) -> None:
        """Each name of a function once."""
        numbers: dict[str, int] = {}
        tests = {
            test: asdict(known)
            | {
                kind: [numbers.setdefault(name, len(numbers)) for name in getattr(known, kind)]
                for kind in ("functions", "around")
            }
            for test, known in baseline.items()
        }
        place = self._place(file)
        unfinished = place.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"functions": [*numbers], "tests": tests}), encoding="utf-8")
        unfinished.replace(place)


def measure(copy: Copy, tests: Sequence[str]) -> Iterator[tuple[str, Known]]:
    """A test that hangs or ends its process counts as failed; the others go on without it."""
    left = dict.fromkeys(tests)
    files = [*dict.fromkeys(test.partition("::")[0] for test in tests)]
    while left:
        running = next(iter(left))
        runner = copy.start(files, traced=True)
        try:
            runner.ready(600)
            runner.run(tests=[*left], patches={}, first=False)
            for answer in runner.answers(dict.fromkeys(left, PATIENCE)):
                if "begins" in answer:
                    running = answer["begins"]
                elif "test" in answer:
                    del left[running]
                    yield (
                        running,
                        Known(
                            answer["seconds"],
                            answer["failed"],
                            answer["skipped"],
                            answer["spawns"],
                            answer["functions"],
                            answer["around"],
                        ),
                    )
        except (Silent, Ended):
            pass
        finally:
            runner.close()
        if copy.stopped:
            raise Stopped
        if running in left:
            del left[running]
            yield running, Known(PATIENCE, failed=True, skipped=False, spawns=True)
