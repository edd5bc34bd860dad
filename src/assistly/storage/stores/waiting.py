"""Sleeping until a job may be due."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic

from .. import validation as check
from .context import Context

_LONGEST_NAP = 5.0


def wait(context: Context, timeout: float | timedelta) -> bool:
    deadline = monotonic() + check.seconds("timeout", timeout)
    due_at = context.backend.jobs.next_due_at()
    while True:
        due_in = None if due_at is None else (due_at - context.now(None)).total_seconds()
        if due_in is not None and due_in <= 0:
            return True
        left = deadline - monotonic()
        if left <= 0:
            return False
        nap = min(left, _LONGEST_NAP) if due_in is None else min(left, _LONGEST_NAP, due_in)
        heard = context.backend.jobs.wait(nap)
        # Whoever goes on waiting begins with a look: one at the end as well would make it two.
        if nap == left and monotonic() >= deadline:
            return False
        if heard is None:
            due_at = context.backend.jobs.next_due_at()
        else:
            due_at = heard if due_at is None else min(due_at, heard)
