"""The arguments of `queue.list`."""

from __future__ import annotations

from .. import validation as check
from ..errors import InvalidValue
from ..records import Job, JobStatus

_STATUSES = {str(status): status for status in JobStatus}


def job_status(value: object) -> JobStatus:
    """A validated status."""
    if type(value) in (str, JobStatus) and value in _STATUSES:
        return _STATUSES[value]
    raise InvalidValue(f"status must be one of {', '.join(JobStatus)}, not {check.shown(value)}")


def start_of_page(after: Job | int | None) -> int:
    """The id that the page begins behind, from the last job of the page before, or its id."""
    if after is None:
        return 0
    return check.identity("after", after.id if isinstance(after, Job) else after)
