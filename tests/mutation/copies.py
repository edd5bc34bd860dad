"""A private copy of the repository with a runner in it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

_LEFT_OUT = {".git", ".venv", "build", "dist", "data", ".hypothesis", "__pycache__"}


class Silent(Exception):
    """The runner has not answered in time."""


class Stopped(Exception):
    """The whole run is at its end."""


class Ended(Exception):
    """The runner has ended: what it should run cannot be imported."""


def copy_of(root: Path, folder: Path) -> Path:
    """The files that git knows or would add, where there is a git; else all."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=False
    )
    if listed.returncode == 0:
        names = [name for name in os.fsdecode(listed.stdout).split("\0") if name and (root / name).is_file()]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    else:
        shutil.copytree(
            root,
            folder,
            dirs_exist_ok=True,
            ignore=lambda _, names: [name for name in names if name in _LEFT_OUT],
        )
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    for package, place in project["tool"]["setuptools"]["package-dir"].items():
        if package:
            (folder / "src" / package.replace(".", "/")).symlink_to(folder / place)
    return folder


class Copy:
    def __init__(self, folder: Path, files: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._files = files
        self._environment = {
            **environment,
            "PYTHONPATH": f"{folder / 'src'}",
            "HYPOTHESIS_PROFILE": "first",
        }
        self._runner: Runner | None = None
        self._started: list[Runner] = []
        self.stopped = False
        self.tests: list[str] = []
        """Those that the runner has collected, once it was asked for."""

    @property
    def runner(self) -> Runner:
        """The one that has imported the sources as they are."""
        if self._runner is None:
            self._runner = self.start(self._files)
            self.tests = self._runner.ready(600)
        return self._runner

    def start(self, files: Sequence[str], *, traced: bool = False) -> Runner:
        if self.stopped:
            raise Stopped
        runner = Runner(self.folder, ["traced" if traced else "plain", *files], self._environment)
        self._started = [one for one in self._started if not one.closed] + [runner]
        return runner

    def stop(self) -> None:
        """End what runs here, from another thread."""
        self.stopped = True
        for runner in self._started:
            runner.kill()

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


class Runner:
    """The process, and the talk with it."""

    def __init__(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        there, self._requests = os.pipe()
        self._answers, back = os.pipe()
        self._received = b""
        self._child = 0
        self.closed = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.runner", str(there), str(back), *arguments],
            cwd=folder,
            env=environment,
            pass_fds=(there, back),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(there)
        os.close(back)

    def ready(self, patience: float) -> list[str]:
        """The tests that it has collected."""
        tests: list[str] = self._answer(patience)["ready"]
        return tests

    def run(self, **request: Any) -> None:
        data = (json.dumps(request) + "\n").encode()
        while data:
            data = data[os.write(self._requests, data) :]

    def answers(self, patience: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        """All answers to the request. A test has the seconds that `patience` has for it."""
        self._child = self._answer(60)["pid"]
        seconds = 120.0
        while True:
            answer = self._answer(seconds)
            if "done" in answer:
                self._child = 0
                return
            seconds = patience.get(answer.get("begins", ""), 120.0)
            yield answer

    def stop_child(self) -> None:
        """Kill the child and what it started, and wait for the runner to notice."""
        if self._child:
            with suppress(ProcessLookupError):
                os.killpg(self._child, signal.SIGKILL)
            while "done" not in self._answer(60):
                pass
            self._child = 0

    def kill(self) -> None:
        for group in (self._child, self._process.pid):
            if group:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.kill()
            self._process.wait()
            os.close(self._requests)
            os.close(self._answers)

    def _answer(self, patience: float) -> dict[str, Any]:
        deadline = monotonic() + patience
        while b"\n" not in self._received:
            readable, _, _ = select.select([self._answers], [], [], max(0.0, deadline - monotonic()))
            if not readable:
                raise Silent
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise Ended
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
