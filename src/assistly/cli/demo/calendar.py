"""The calendar file: one post on each line, as JSON.

    {"command": "spring-sale", "user": "maria", "platform": "mastodon",
     "at": "2026-03-02T08:30:00+01:00", "content": "…"}

`command` names the post: a line that repeats one, with the same post, stands for a command that
was sent twice. Optional are `approval` (true: a person must agree first), `valid_minutes` (published
later than that, it would be wrong) and `tags`. The whole file is checked before any of it is used.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from assistly.storage import InvalidValue
from assistly.storage import validation as check

_SHOWN_PROBLEMS = 3
_YEARS = range(2000, 3000)


def _name(value: str) -> str:
    return check.name("it", value)


def _content(value: str) -> str:
    if not value.strip():
        raise ValueError("it must not be empty")
    return check.content("it", value)


def _moment(value: datetime) -> datetime:
    if value.year not in _YEARS:
        raise ValueError(f"its year must be from {_YEARS.start} to {_YEARS.stop - 1}")
    return value.astimezone(UTC)


class Post(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    command: Annotated[str, AfterValidator(_name)]
    user: Annotated[str, AfterValidator(_name)]
    platform: Annotated[str, AfterValidator(_name)]
    at: Annotated[AwareDatetime, AfterValidator(_moment)]
    content: Annotated[str, AfterValidator(_content)]
    approval: bool = False
    valid_minutes: Annotated[int, Field(ge=1, le=525_600)] | None = None
    tags: tuple[Annotated[str, AfterValidator(_name)], ...] = ()

    @property
    def max_lateness(self) -> timedelta | None:
        return None if self.valid_minutes is None else timedelta(minutes=self.valid_minutes)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = self.model_dump(mode="json")
        return payload


def shipped_calendar() -> Path:
    """Installed, the examples are inside the package; in a checkout they are beside `src`."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "examples", package.parents[1] / "examples"):
        if (folder / "posts.jsonl").is_file():
            return folder / "posts.jsonl"
    raise InvalidValue("the calendar that ships with assistly is not installed: name a file")


def read_calendar(path: Path) -> list[Post]:
    """Every line of the file, or InvalidValue that names the bad ones."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InvalidValue(f"the calendar {str(path)!r} cannot be read: {error.strerror}") from None
    posts: dict[int, Post] = {}
    problems: list[str] = []
    first_lines: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            post = _parse(line)
            first = first_lines.setdefault(post.command, number)
            if posts.get(first, post) != post:
                raise ValueError(f"command {check.shown(post.command)} is another post on line {first}")
            posts[number] = post
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        rest = f"; and {more} more" if more > 0 else ""
        raise InvalidValue(
            f"the calendar {str(path)!r} was not imported: {'; '.join(problems[:_SHOWN_PROBLEMS])}{rest}"
        )
    if not posts:
        raise InvalidValue(f"the calendar {str(path)!r} has no posts")
    return list(posts.values())


def _parse(line: bytes) -> Post:
    try:
        return Post.model_validate_json(line)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ValueError(
            ", ".join(_problem(detail["loc"], detail["type"], detail["msg"]) for detail in details)
        ) from None


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    field = ".".join(str(part) for part in location)
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is no field of a post"
    if kind.startswith("timezone"):
        return f"{field}: the time needs an offset, such as 2026-03-02T08:30:00+01:00"
    text = message.removeprefix("Value error, ")
    return f"{field}: {text}" if field else text
