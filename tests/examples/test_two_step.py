"""examples/two_step.py: resumed from its checkpoint, and stopped at each step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import Job, JobStatus, Storage
from assistly.worker import NotPosted, Publication, StillUnknown, WasPosted, Worker
from examples.two_step import Gallery, GalleryPublisher, container_of
from waiting import until

ROOT = Path(__file__).resolve().parents[2]


class Gone(BaseException):
    """Ends a publisher as a process that dies does: nothing is known."""


@pytest.fixture
def gallery(engine: str, tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "gallery")


def run(storage: Storage, gallery: Gallery) -> None:
    Worker(storage, {"gallery": GalleryPublisher(gallery)}, check_pause=0.001).run_until_idle()


def stored(storage: Storage, job: Job) -> Job:
    found = storage.queue.get(job.id)
    assert found is not None
    return found


def made(gallery: Gallery) -> tuple[int, int]:
    """The containers and posts."""
    return len([*gallery.containers.glob("*")]), len([*gallery.posts.glob("*")])


def test_it_publishes(storage: Storage, gallery: Gallery) -> None:
    job = storage.queue.schedule("gallery", "The first rolls of the day.")
    run(storage, gallery)
    posted = stored(storage, job)
    assert posted.status is JobStatus.POSTED
    assert posted.remote_id is not None
    assert (gallery.posts / posted.remote_id).read_text() == "The first rolls of the day."
    assert made(gallery) == (1, 1)


@pytest.mark.parametrize(
    ("name", "after", "expected"),
    [
        ("create_container", False, (1, 1)),
        ("create_container", True, (2, 1)),  # nobody knows of the first one, which was never published
        ("checkpoint", False, (2, 1)),
        ("checkpoint", True, (1, 1)),
        ("publish", False, (1, 1)),
        ("publish", True, (1, 1)),
    ],
)
def test_one_that_stops_anywhere_is_posted_once(
    storage: Storage,
    gallery: Gallery,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    after: bool,
    expected: tuple[int, int],
) -> None:
    job = storage.queue.schedule("gallery", "Rolls")
    owner: Any = Publication if name == "checkpoint" else Gallery
    call = getattr(owner, name)

    def stops(*args: Any) -> None:
        if after:
            call(*args)
        raise Gone

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stops)
        run(storage, gallery)
    assert stored(storage, job).outcome_unknown

    def is_posted() -> bool:
        run(storage, gallery)
        return stored(storage, job).status is JobStatus.POSTED

    until(is_posted)
    assert made(gallery) == expected
    assert [stored(storage, job).remote_id] == [post.name for post in gallery.posts.glob("*")]


def test_a_failure_resumes_from_the_checkpoint(
    storage: Storage, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = storage.queue.schedule("gallery", "Rolls")

    def fails(*_: Any) -> None:
        raise ConnectionRefusedError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "publish", fails)
        run(storage, gallery)
    failed = stored(storage, job)
    assert failed.status is JobStatus.RETRYING
    container = container_of(failed)
    storage.queue.reschedule(job.id, job.scheduled_at)
    run(storage, gallery)
    assert made(gallery) == (1, 1)
    assert str(stored(storage, job).remote_id).startswith(f"{container}-")


def test_what_the_check_answers(storage: Storage, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = GalleryPublisher(gallery)
    job = storage.queue.schedule("gallery", "Rolls")
    (claimed,) = storage.queue.claim_due(worker_id="w")
    begun = storage.queue.begin_publish(claimed)
    assert publisher.check(begun) == NotPosted()
    container = gallery.create_container(job.content)
    noted = storage.queue.checkpoint(begun, {"container": container})
    assert publisher.check(noted) == NotPosted()
    post = gallery.publish(container)
    assert publisher.check(noted) == WasPosted(post)

    def fails(*_: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(Gallery, "posts_of", fails)
    assert isinstance(publisher.check(noted), StillUnknown)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_command_line_of_its_text_works(storage: Storage, gallery: Gallery) -> None:
    job = storage.queue.schedule("gallery", "Rolls")
    command = [sys.executable, "-c", "from assistly.cli import main; main()", "worker", "--drain"]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "GALLERY_PATH": "gallery"}
    subprocess.run(
        [*command, "--publish", "gallery=examples.two_step:publisher"],
        env={**os.environ, **environment},
        check=True,
        timeout=60,
    )
    assert stored(storage, job).status is JobStatus.POSTED
    assert made(gallery) == (1, 1)
