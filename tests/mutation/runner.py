"""A process that has collected the tests, and runs some of them in forked children, with or without a mutant.

`python -m tests.mutation.runner REQUESTS ANSWERS traced|plain FILE...` in a copy of the repository. The first
two are file descriptors: a line of JSON each way. Each request becomes a child of its own, so nothing of a
mutant stays.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from .changes import Mentions
from .patching import patch
from .tracing import Tracer


class Runner:
    """A pytest plugin that takes the place of the loop over all tests."""

    def __init__(self, requests: int, answers: int, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._requests = os.fdopen(requests, encoding="utf-8")
        self._answers = answers
        self._failed = self._skipped = False
        self._process = os.getpid()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        root = Path.cwd()
        mentions = Mentions(root)
        items = {item.nodeid: item for item in session.items}
        self._answer({"ready": [*items]})
        for line in self._requests:
            request = json.loads(line)
            if pid := os.fork():
                _, status = os.waitpid(pid, 0)
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                self._answer({"done": status})
                continue
            os.setsid()
            self._process = os.getpid()
            self._answer({"pid": self._process})
            code = 3
            try:
                code = self._serve(session, request, items, mentions, root)
            except BaseException as error:  # noqa: BLE001 - the process ends here
                self._answer({"error": repr(error)})
            os._exit(code)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        if self._tracer is None:
            return (yield)
        self._tracer.call()
        try:
            return (yield)
        finally:
            self._tracer.called()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed
        self._skipped = self._skipped or report.skipped

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid.partition("::")[0])

    def _answer(self, answer: dict[str, Any]) -> None:
        if os.getpid() != self._process:
            os._exit(1)  # a fork of a test, which has left the test by an exception
        data = (json.dumps(answer) + "\n").encode()
        while data:
            data = data[os.write(self._answers, data) :]

    def _serve(
        self,
        session: pytest.Session,
        request: dict[str, Any],
        items: dict[str, pytest.Item],
        mentions: Mentions,
        root: Path,
    ) -> int:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        for path, (old, new) in request["patches"].items():
            if not patch(mentions, root, path, old, new):
                self._answer({"unpatched": path})
                return 2
        tracer = self._tracer
        chosen = [items[name] for name in request["tests"]]
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            self._answer({"begins": item.nodeid})
            self._failed = self._skipped = False
            began = perf_counter()
            if tracer:
                tracer.start()
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            answer: dict[str, Any] = {
                "test": item.nodeid,
                "seconds": round(perf_counter() - began, 4),
                "failed": self._failed,
                "skipped": self._skipped,
            }
            if tracer:
                answer |= tracer.stop()
            self._answer(answer)
            if self._failed and request["first"]:
                return 1
        return 0


def main(arguments: Sequence[str]) -> int:
    from hypothesis import settings

    settings.register_profile("mutation", database=None)
    settings.load_profile("mutation")
    requests, answers, traced, *files = arguments
    tracer = Tracer(Path.cwd()) if traced == "traced" else None
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--hypothesis-seed=0",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    return int(pytest.main([*options, *files], plugins=[Runner(int(requests), int(answers), tracer)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
