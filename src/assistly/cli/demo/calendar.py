"""The calendar file: one post on each line, as JSON.

    {"command": "spring-sale", "user": "maria", "platform": "mastodon",
     "at": "2026-03-02T08:30:00+01:00", "content": "…"}

`command` names the post. A second line with the same name and post is a repeated command.
`approval` (true: a person must approve the post first), `valid_minutes` (how late it may be published)
and `tags` are optional. The whole file is validated before any of it is used.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from assistly.storage import InvalidValue
from assistly.storage import validation as check

_SHOWN_PROBLEMS = 3
_YEARS = range(2000, 3000)
_OFFSET = ": the time needs an offset, such as 2026-03-02T08:30:00+01:00"
_MESSAGES = {"missing": " is missing", "extra_forbidden": " is not a field", "timezone_aware": _OFFSET}


def _content(value: str) -> str:
    if not value.strip():
        raise ValueError("it must not be empty")
    return check.content("it", value)


def _time(value: datetime) -> datetime:
    if value.year not in _YEARS:
        raise ValueError(f"its year must be from {_YEARS.start} to {_YEARS.stop - 1}")
    return value.astimezone(UTC)


_Name = Annotated[str, AfterValidator(partial(check.name, "it"))]


class CalendarPost(BaseModel):
    """A line of the calendar."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    command: _Name
    user: _Name
    platform: _Name
    at: Annotated[AwareDatetime, AfterValidator(_time)]
    content: Annotated[str, AfterValidator(_content)]
    approval: bool = False
    valid_minutes: Annotated[int, Field(ge=1, le=525_600)] | None = None
    tags: tuple[_Name, ...] = ()

    @property
    def max_lateness(self) -> timedelta | None:
        return None if self.valid_minutes is None else timedelta(minutes=self.valid_minutes)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def shipped_calendar() -> Path:
    """The path of the calendar in the package."""
    return Path(str(files("assistly.examples") / "posts.jsonl"))


def read_calendar(path: Path) -> list[CalendarPost]:
    """Return the posts of a calendar file. Raises InvalidValue, which names the first wrong lines."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InvalidValue(f"cannot read the calendar {str(path)!r}: {error.strerror}") from None
    posts: list[CalendarPost] = []
    problems: list[str] = []
    first: dict[str, tuple[int, CalendarPost]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                post = _parse(line)
                first_line, same = first.setdefault(post.command, (number, post))
                if post != same:
                    raise ValueError(
                        f"command {check.shown(post.command)} names another post on line {first_line}"
                    )
                posts.append(post)
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        shown = "; ".join([*problems[:_SHOWN_PROBLEMS], *more])
        raise InvalidValue(f"the calendar {str(path)!r} was not imported: {shown}")
    if not posts:
        raise InvalidValue(f"the calendar {str(path)!r} has no posts")
    return posts


def _parse(line: bytes) -> CalendarPost:
    try:
        return CalendarPost.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(", ".join(map(_problem, error.errors(include_url=False)))) from None


def _problem(detail: ErrorDetails) -> str:
    field, kind = ".".join(map(str, detail["loc"])), detail["type"]
    if kind in _MESSAGES:
        return f"{field}{_MESSAGES[kind]}"
    text = detail["msg"].removeprefix("Value error, ")
    return f"{field}: {text}" if field else text
