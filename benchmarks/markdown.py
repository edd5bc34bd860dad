"""Results as tables of a Markdown page, in place of those that it had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .report import goal_of, shown
from .running import Result

BEGIN = "<!-- benchmarks: begin -->"
END = "<!-- benchmarks: end -->"


def write_markdown(path: Path, environment: Mapping[str, str], results: Sequence[Result]) -> None:
    """Between the two marks, which are put at the end of a page that does not have them."""
    page = path.read_text() if path.exists() else ""
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{rendered(environment, results)}{END}{after}")


def rendered(environment: Mapping[str, str], results: Sequence[Result]) -> str:
    return "\n".join([*_table(results), "", *_environment(environment), "", *_settings(results), ""])


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield "| what | goal | reached | quartiles | Assistly | floor | others |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        if result.role == "ours":
            yield _line(result, [other for other in results if _beside(other, result)])


def _beside(other: Result, result: Result) -> bool:
    return other.row == result.row and other.unit == result.unit


def _line(result: Result, beside: Sequence[Result]) -> str:
    floor = next(other for other in beside if other.role == "floor")
    others = ", ".join(
        f"{other.contender} {other.ratio.median:.2f}"
        for other in sorted(beside, key=_merit, reverse=True)
        if other.role in ("peer", "reference")
    )
    mark = {True: "", False: " (missed)", None: ""}[result.met]
    reached = shown(result.value.median) if result.absolute else f"{result.ratio.median:.2f}"
    spread = result.value if result.absolute else result.ratio
    return (
        f"| {result.title} | {goal_of(result)} | {reached}{mark} | {spread.low:.2f} to {spread.high:.2f} "
        f"| {_amount(result)} | {_amount(floor)} | {others} |"
    )


def _merit(result: Result) -> float:
    return result.ratio.median if result.more_is_better else -result.ratio.median


def _amount(result: Result) -> str:
    return f"{shown(result.value.median)} {result.unit}"


def _environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        yield f"- {name}: {value}"


def _settings(results: Sequence[Result]) -> Iterator[str]:
    """Of the peers, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.role == "peer" and result.settings:
            rows = found.setdefault((result.contender, result.settings), [])
            if result.row not in rows:
                rows.append(result.row)
    if found:
        yield "| peer | its settings | where |"
        yield "|---|---|---|"
    for (contender, settings), rows in found.items():
        yield f"| {contender} | {settings} | {', '.join(rows)} |"
