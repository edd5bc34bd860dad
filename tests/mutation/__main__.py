"""Put small faults into the code, one at a time, and see which of them no test notices."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from .baseline import Baseline, Kept, measure
from .copies import Copy, copy_of
from .edits import Mutant
from .making import ENGINES, NotApplicable, changed_lines, compiles, from_patch, globs_of, mutants_of, sample
from .trial import Choice, Result, try_one

ROOT = Path(__file__).parents[2]
URL_VARIABLE = "ASSISTLY_TEST_DATABASE_URL"

LEFT_OUT = (
    "tests/contract/test_store_mutants.py",
    "tests/contract/test_conformance.py",
    "tests/backends/test_packaging.py",
    "tests/unit/test_house.py",
    "tests/unit/test_benchmarks*.py",
    "tests/unit/test_mutation.py",
    "tests/docs/*",
)
"""Tests of the suite itself, of the text of the sources and of what is not the package."""

_NAIVE_ENGINE = "tests/contract/test_mutants.py"
"""Its engine without a bug has no other code than the defaults of `engine/base`."""


class Engine(StrEnum):
    MEMORY = "memory"
    SQLITE = "sqlite"
    POSTGRES = "postgres"


class Tests(StrEnum):
    ALL = "all"
    CONTRACT = "contract"


def main(
    *,
    engine: Annotated[Engine | None, typer.Option(help="Mutants and tests of this engine alone.")] = None,
    only: Annotated[Tests, typer.Option(help="`contract`: run tests/contract alone.")] = Tests.ALL,
    path: Annotated[
        list[str] | None, typer.Option(help="Mutate these files of src, such as '*/stores/*'.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--sample", min=1, help="Try only this many mutants: one of each kind in turn."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another number chooses another sample.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="How many mutants are tried at once.")] = 2,
    since: Annotated[
        str | None, typer.Option(help="Only lines of src that changed since this revision.")
    ] = None,
    mutants: Annotated[
        Path | None,
        typer.Option(
            help="A folder of patches (*.patch, *.diff): try each as a mutant, and make no others.",
            exists=True,
        ),
    ] = None,
    id: Annotated[
        list[str] | None, typer.Option(help="Only mutants with these ids, such as '*:_FAIL:sql-*'.")
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Seconds for the tests of one mutant; then it counts as stopped.")
    ] = 90.0,
    slowest: Annotated[
        float | None, typer.Option(help="Leave out tests that take more seconds than this.")
    ] = None,
    hang: Annotated[
        float, typer.Option(help="A test hangs after this many seconds and five times its usual time.")
    ] = 15.0,
    results: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the mutants.")] = False,
) -> None:
    """Put small faults (mutants) into the code, one at a time, and see which of them no test notices.

    It works in a copy in the folder for temporary files. Exit status 1 if a mutant survived, 2 if a patch
    does not fit. docs/mutants.md explains the results.
    """
    chosen, unfit = _mutants(engine, path, count, seed, since, mutants, id)
    if list_only:
        for mutant in chosen:
            print(f"{mutant.id}  {mutant.what}")
        raise typer.Exit
    with ExitStack() as stack:
        if mutants is not None and chosen and engine is None:
            engine = _engine_of(chosen)
        files = _test_files(engine, only, chosen)
        copies = [stack.enter_context(_copy(files, engine)) for _ in range(min(jobs, len(chosen)))]
        found = [*unfit, *_try_all(chosen, copies, engine, limit, hang, slowest)]
    _report(found)
    if results is not None:
        results.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    outcomes = {one.outcome for one in found}
    raise typer.Exit(2 if "not applicable" in outcomes else 1 if outcomes & {"survived", "unreached"} else 0)


def _mutants(
    engine: Engine | None,
    paths: Sequence[str] | None,
    count: int | None,
    seed: int,
    since: str | None,
    folder: Path | None,
    ids: Sequence[str] | None,
) -> tuple[list[Mutant], list[Result]]:
    if folder is not None:
        patches = sorted([*folder.glob("*.patch"), *folder.glob("*.diff")])
        if not patches:
            raise typer.BadParameter(f"{folder} has no files *.patch or *.diff", param_hint="--mutants")
        return _from_patches(patches)
    lines = None if since is None else changed_lines(ROOT, since)
    made = mutants_of(ROOT, paths or globs_of(engine), lines)
    if ids:
        made = [mutant for mutant in made if any(fnmatch(mutant.id, pattern) for pattern in ids)]
    if count is not None:
        return sample(made, count, seed), []
    return [mutant for mutant in made if compiles(mutant)], []


def _from_patches(patches: Sequence[Path]) -> tuple[list[Mutant], list[Result]]:
    fit: list[Mutant] = []
    unfit: list[Result] = []
    for patch in patches:
        try:
            fit.append(from_patch(ROOT, patch))
        except NotApplicable as error:
            unfit.append(Result(patch.name, "", "", "not applicable", "", str(error), 0, 0, 0.0))
    return fit, unfit


def _engine_of(mutants: Sequence[Mutant]) -> Engine | None:
    """The one engine whose files all of them change."""
    for engine in Engine:
        own = [glob for glob in ENGINES[engine] if "/engines/sql/" not in glob]
        if all(any(fnmatch(path, glob) for glob in own) for mutant in mutants for path in mutant.files):
            return engine
    return None


def _test_files(engine: Engine | None, only: Tests, mutants: Sequence[Mutant]) -> list[str]:
    """Without what repeats others: asyncio, unless that changes, and engines of third parties."""
    folder = ROOT / "tests" / ("contract" if only is Tests.CONTRACT else "")
    left_out = [*LEFT_OUT, *(f"tests/*_{one.value}*" for one in Engine if engine not in (None, one))]
    if not any("/aio/" in path for mutant in mutants for path in mutant.files):
        left_out += ["tests/contract/test_async_*", "tests/contract/thirdparty/*"]
    if engine not in (None, Engine.POSTGRES):
        left_out += ["tests/contract/test_lockstep.py"]
    if engine not in (None, Engine.MEMORY):
        left_out += [_NAIVE_ENGINE]
    names = [file.relative_to(ROOT).as_posix() for file in sorted(folder.rglob("test_*.py"))]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in left_out)]


@contextmanager
def _copy(files: Sequence[str], engine: Engine | None) -> Iterator[Copy]:
    with ExitStack() as stack:
        environment = {**os.environ}
        if engine in (None, Engine.POSTGRES) and not environment.get(URL_VARIABLE):
            environment[URL_VARIABLE] = stack.enter_context(_postgres())
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="assistly-mutation-", ignore_cleanup_errors=True)
        )
        copy = Copy(copy_of(ROOT, Path(folder).resolve()), files, environment)
        stack.callback(copy.close)
        yield copy


@contextmanager
def _postgres() -> Iterator[str]:
    """A server that runs for all mutants of a copy."""
    sys.path.insert(0, str(ROOT / "tests"))
    from postgres_server import TemporaryServer

    server = TemporaryServer()
    try:
        yield server.url
    finally:
        server.close()


def _concerns(test: str, engine: Engine | None) -> bool:
    """Not a test that names another engine and not this one, nor one that runs mutants itself."""
    if test.startswith(f"{_NAIVE_ENGINE}::test_"):
        return False
    named = {one for one in Engine if one.value in test.lower()}
    return engine is None or not named or engine in named


def _try_all(
    mutants: Sequence[Mutant],
    copies: Sequence[Copy],
    engine: Engine | None,
    limit: float,
    hang: float,
    slowest: float | None,
) -> list[Result]:
    if not mutants:
        return []
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)
    with ThreadPoolExecutor(len(copies)) as pool, _stopping(copies):
        for _ in pool.map(lambda copy: copy.runner, copies):
            pass
        tests = [test for test in copies[0].tests if _concerns(test, engine)]
        known = _baseline(copies, tests, pool)
        if slowest is not None:
            known = {test: one for test, one in known.items() if one.seconds <= slowest}
        choice = Choice(copies[0].folder, known, hang)
        results: list[Result] = []

        def work(mutant: Mutant) -> None:
            copy = free.get()
            try:
                result = try_one(mutant, copy, choice, limit)
            finally:
                free.put(copy)
            results.append(result)
            how = f"{result.reason}: {result.by}" if result.outcome == "killed" else ""
            _say(
                f"{len(results)}/{len(mutants)} {result.outcome} {result.id} ({result.what}) "
                f"in {result.seconds:.1f} s, {result.tests} of {result.concerned} tests. {how}"
            )

        for _ in pool.map(work, mutants):
            pass
    places = {mutant.id: number for number, mutant in enumerate(mutants)}
    return sorted(results, key=lambda result: places[result.id])


@contextmanager
def _stopping(copies: Sequence[Copy]) -> Iterator[None]:
    """After Ctrl-C the threads are not waited for until their tests end."""
    try:
        yield
    except BaseException:
        for copy in copies:
            copy.stop()
        raise


def _baseline(copies: Sequence[Copy], tests: Sequence[str], pool: ThreadPoolExecutor) -> Baseline:
    """From earlier runs on the same sources, or measured, each copy with a part of the files."""
    kept = Kept(copies[0].folder)
    by_file: dict[str, list[str]] = {}
    for test in tests:
        by_file.setdefault(test.partition("::")[0], []).append(test)
    known = {file: kept.load(file) for file in by_file}
    missing = {file: group for file, group in by_file.items() if not {*group} <= known[file].keys()}
    parts: list[list[str]] = [[] for _ in copies]
    for group in sorted(missing.values(), key=len, reverse=True):
        min(parts, key=len).extend(group)
    left = sum(map(len, parts))
    if left:
        _say(f"once without a mutant: {left} tests")

    def run(copy: Copy, part: Sequence[str]) -> None:
        nonlocal left
        for test, result in measure(copy, part):
            file = test.partition("::")[0]
            known[file][test] = result
            left -= 1
            if left % 500 == 0:
                _say(f"without a mutant: {left} tests left")
            if result.failed:
                _say(f"left out, since it fails without a mutant: {test}")
            if known[file].keys() >= {*by_file[file]}:
                kept.save(file, known[file])

    for _ in pool.map(run, copies, parts):
        pass
    return {
        test: known[file][test] for file, group in by_file.items() for test in group if test in known[file]
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(results: Sequence[Result]) -> None:
    if not results:
        print("no mutants: no code matches the options")
        return
    for result in results:
        if result.outcome != "killed":
            print(f"{result.outcome}: {result.id}  {result.place}  {result.what}  {result.reason}".rstrip())
    groups: dict[str, Counter[str]] = {}
    group_of: Callable[[Result], str] = lambda result: result.place.rpartition("/")[0] or "?"  # noqa: E731
    for result in results:
        groups.setdefault(group_of(result), Counter())[result.outcome] += 1
    total: Counter[str] = Counter(result.outcome for result in results)
    print(f"\n{'':45} mutants  killed  survived  other    rate")
    for name, counted in [*sorted(groups.items()), ("all", total)]:
        number, killed, survived = counted.total(), counted["killed"], counted["survived"]
        other = number - killed - survived
        print(f"{name:45} {number:7} {killed:7} {survived:9} {other:6} {killed / number:7.1%}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
