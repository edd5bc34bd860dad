"""The benchmarks run, judge rightly, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.markdown import BEGIN, END, write_markdown
from benchmarks.model import Contender, Figure, Round, Row, Surroundings, throughput
from benchmarks.report import as_dict
from benchmarks.rows import ROWS
from benchmarks.running import Outcome, run_row

LOCAL = [row for row in ROWS if not row.key.startswith("pg-")]


def surroundings(folder: Path) -> Surroundings:
    return Surroundings(None, folder, "tiny")


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.key)
def test_rows_run(row: Row, tmp_path: Path) -> None:
    outcome = run_row(row, surroundings(tmp_path), rounds=1)
    assert {result.contender for result in outcome.results} == {
        contender.name for contender in row.contenders if contender.role != "peer"
    }
    for result in outcome.results:
        assert all(value > 0 for value in result.values)


def fixed(*values: float, name: str = "fixed", log: list[str] | None = None, **options: object) -> Contender:
    """A contender that measures these values, in turn."""

    @contextmanager
    def opened(_: Surroundings) -> Iterator[Round]:
        warm_up = iter([(0.0,)])
        rounds = iter([(value,) for value in values])

        def measure(_: int) -> tuple[float, ...]:
            if log is not None:
                log.append(name)
            return next(warm_up, None) or next(rounds)

        yield measure

    return Contender(name, opened, **options)  # type: ignore[arg-type]


def run(tmp_path: Path, *contenders: Contender, figure: Figure, rounds: int = 3) -> Outcome:
    row = Row("row", "title", (figure,), {"tiny": 1}, contenders, rounds={"tiny": rounds})
    return run_row(row, surroundings(tmp_path), peers=True)


def test_ratios_are_those_of_single_rounds(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        fixed(10, 100, 1000, name="floor", role="floor"),
        fixed(9, 50, 900, name="ours"),
        figure=Figure("/s", 0.9),
    )
    _, ours = outcome.results
    assert ours.ratios == [0.9, 0.5, 0.9]
    assert (ours.value.median, ours.ratio.median, ours.met) == (50, 0.9, True)
    assert as_dict(ours)["ratio"] == {"low": 0.7, "median": 0.9, "high": 0.9}


@pytest.mark.parametrize(
    ("figure", "value", "met"),
    [
        (Figure("/s", 0.5), 5.0, True),
        (Figure("/s", 0.5), 4.9, False),
        (Figure("ms", 1.3, more_is_better=False), 13.0, True),
        (Figure("ms", 1.3, more_is_better=False), 13.1, False),
        (Figure("ms", 50.0, more_is_better=False, absolute=True), 50.0, True),
        (Figure("ms", 50.0, more_is_better=False, absolute=True), 50.1, False),
        (Figure("ms", None), 50.1, None),
    ],
)
def test_goals(figure: Figure, value: float, met: bool | None, tmp_path: Path) -> None:
    outcome = run(tmp_path, fixed(10.0, role="floor"), fixed(value, name="ours"), figure=figure, rounds=1)
    assert [result.met for result in outcome.results] == [None, met]


def test_contenders_take_turns(tmp_path: Path) -> None:
    log: list[str] = []
    contenders = [fixed(1, 1, 1, name=name, log=log) for name in "abc"]
    run(tmp_path, *contenders, figure=Figure("/s", None))
    assert "".join(log) == "abc" + "abc" + "bca" + "cab"


def test_a_peer_that_fails_or_is_missing_is_named_and_left_out(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        fixed(1, 1, 1, name="floor", role="floor"),
        fixed(1, name="runs out", role="peer"),
        fixed(1, name="missing", role="peer", requires=("no-such-distribution",)),
        figure=Figure("/s", None),
    )
    assert [result.contender for result in outcome.results] == ["floor"]
    assert [(absence.contender, absence.reason.split(":")[0]) for absence in outcome.absent] == [
        ("missing", "not installed"),
        ("runs out", "StopIteration"),
    ]


def test_work_that_is_not_done_is_no_result() -> None:
    with pytest.raises(AssertionError, match="1 of 2"):
        throughput(lambda _: 1, lambda count: count)(2)


def test_command(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--tiny", "--only", "memory-nonce", "--json", str(results)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "raw driver" in run.stdout
    document = json.loads(results.read_text())
    assert "Python" in document["environment"]
    assert {result["row"] for result in document["results"]} == {"memory-nonce"}


def test_markdown_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        fixed(10, 10, 10, name="floor", role="floor"),
        fixed(4, 5, 6, name="Assistly"),
        fixed(1, 1, 1, name="other", role="peer", settings="its best"),
        figure=Figure("/s", 0.9),
    )
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    for _ in range(2):
        write_markdown(page, {"Python": "3"}, outcome.results)
    text = page.read_text()
    assert text.startswith("Before.\n\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in text
    assert "| title | ≥ 0.9 | 0.50 (missed) | 0.45 to 0.55 | 5.00 /s | 10.00 /s | other 0.10 |" in text
    assert text.count("| other | its best | row |") == 1
