"""Conditions on jobs that several statements repeat."""

from __future__ import annotations

from ...records import MISSED
from .dialect import Dialect

# A statement can use a partial index if it repeats the index's condition word for word.
WAITING = "status IN ('scheduled', 'retrying')"
PROCESSING = "attention_at IS NOT NULL AND status = 'processing'"


def is_missed(d: Dialect) -> str:
    """That a dead letter is `Job.missed`. It may be NULL, which means that it is not."""
    return f"""
        publish_started_at IS NULL AND {d.f}substr(dead_letter_reason, 1, {len(MISSED)}) = '{MISSED}'
        AND dead_letter_reason <> coalesce(last_error, '')
    """
