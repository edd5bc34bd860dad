"""Statement templates: one text for both engines, but for the fragments listed here."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from .database import Codec

_FRAGMENT = re.compile(r"\{(\w+)\}")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Fragments:
    """What `{name}` in a template stands for.

    ==============  ==================================  ==========================================
    name            SQLite                              Postgres
    ==============  ==================================  ==========================================
    t               ``assistly_``                       ``"schema".assistly_``
    for_update      nothing                             ``FOR UPDATE``
    skip_locked     nothing                             ``FOR UPDATE SKIP LOCKED``
    text            nothing                             ``::text``, after a parameter
    bigint          nothing                             ``::bigint``
    jsonb           nothing                             ``::jsonb``
    timestamp       nothing                             ``::timestamptz``
    microseconds    nothing                             ``* interval '1 microsecond'``
    any_platform    ``IN (SELECT value FROM             ``= ANY(:platforms::text[])``
                    json_each(:platforms))``
    picked          ``IN (``                            ``= ANY(ARRAY(``
    end_picked      ``)``                               ``))``
    append_attempt  ``json_insert(…)``                  ``(… || jsonb_build_object(…))``
    active          ``status NOT IN (…)``               ``status IN (…)``
    past            ``json_array(…)``                   ``jsonb_build_array(…)``
    ==============  ==================================  ==========================================

    `append_attempt` is the new value of `attempts`: the column, without its first element where it
    holds 20 already, and at its end an object of number (`retries + 1`), at (`:now_us`), worker_id
    (the column) and error (`:attempt_error`). `active` is the condition of idx_queue_conflict, word for
    word. `past` is an array of claim, retries, attempts, next_retry_at, remote_id, posted_at, last_error,
    dead_letter_at, dead_letter_reason, replayed_at, publish_started_at and max_lateness, with times in
    microseconds.
    """

    t: str
    active: str
    past: str
    for_update: str = ""
    skip_locked: str = ""
    text: str = ""
    bigint: str = ""
    jsonb: str = ""
    timestamp: str = ""
    microseconds: str = ""
    any_platform: str = ""
    picked: str = ""
    end_picked: str = ""
    append_attempt: str = ""


class TemplateDialect:
    """A `Dialect` made of a codec, fragments and the driver's form of a parameter.

    `parameter` is a format string such as ``:{}`` or ``%({})s``; `percent` is what a literal
    percent sign must become for the driver.
    """

    def __init__(self, codec: Codec, fragments: Fragments, *, parameter: str, percent: str = "%") -> None:
        self.codec = codec
        self._fragments = asdict(fragments)
        self._parameter = parameter
        self._percent = percent
        self._rendered: dict[tuple[str, int | None], str] = {}

    def render(self, template: str, limit: int | None = None) -> str:
        key = (template, limit)
        text = self._rendered.get(key)
        if text is None:
            text = self._rendered[key] = self._render(template, limit)
        return text

    def _render(self, template: str, limit: int | None) -> str:
        values = {**self._fragments, "limit": str(int(limit))} if limit is not None else self._fragments
        text = template
        while (expanded := _FRAGMENT.sub(lambda match: values[match[1]], text)) != text:
            text = expanded
        text = text.replace("%", self._percent)
        return _PARAMETER.sub(lambda match: self._parameter.format(match[1]), text)
