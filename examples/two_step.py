"""A publisher for a platform that takes two steps: create a container with the post, then publish it.

    assistly worker --publish gallery=examples.two_step:publisher --check-pause 60

Run it in the root of the repository; the command needs the extra `cli`. The platform here is a folder
(GALLERY_PATH, by default data/gallery); a real one has an API for the same. The id of the container is stored
as the job's checkpoint before the second step. So if the worker dies after that, or an answer is lost, the
next attempt publishes that container, and creates no second one. If it dies before the checkpoint is stored,
a container is left that nobody sees, and the next attempt creates another one.

The platform posts a container each time that it is told to. So it must not be told again before somebody
knows that it did not post: `check` finds out. A worker calls it for each job whose outcome is unknown. Its
answer is right if the worker that published is dead. If that was only stopped (SIGSTOP, a suspended laptop),
it may post after the question: choose a --check-pause above the longest pause that you expect.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from assistly.storage import Job
from assistly.worker import CheckResult, NotPosted, Publication, StillUnknown, Unknown, WasPosted

PATH = Path("data/gallery")


class Gallery:
    """The platform: containers that nobody sees, and posts."""

    def __init__(self, path: Path) -> None:
        self.containers = path / "containers"
        self.posts = path / "posts"

    def create_container(self, content: str) -> str:
        """Store what is to be posted, and return the id of its container."""
        self.containers.mkdir(parents=True, exist_ok=True)
        self.posts.mkdir(exist_ok=True)
        container = uuid4().hex
        (self.containers / container).write_text(content, encoding="utf-8")
        return container

    def publish(self, container: str) -> str:
        """Post the content of a container, and return the id of the post."""
        post = f"{container}-{uuid4().hex}"
        os.link(self.containers / container, self.posts / post)
        return post

    def posts_of(self, container: str) -> list[str]:
        """The ids of the posts that were made of a container."""
        return sorted(post.name for post in self.posts.glob(f"{container}-*"))


class GalleryPublisher:
    """Publishes jobs in a gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery

    def publish(self, job: Job, publication: Publication) -> str:
        """Create a container, unless an attempt before has, and publish it."""
        container = container_of(job)
        if container is None:
            container = self._gallery.create_container(job.content)
            publication.checkpoint({"container": container})
        try:
            return self._gallery.publish(container)
        except TimeoutError as error:
            raise Unknown("the gallery did not answer whether it has published") from error

    def check(self, job: Job) -> CheckResult:
        """Ask the gallery whether it has posted the job."""
        container = container_of(job)
        if container is None:
            return NotPosted()  # the second step is made after the checkpoint only
        try:
            posts = self._gallery.posts_of(container)
        except OSError as error:
            return StillUnknown(f"the gallery cannot be asked: {error}")
        return WasPosted(posts[0]) if posts else NotPosted()


def container_of(job: Job) -> str | None:
    """The container that an earlier attempt has created."""
    return None if job.checkpoint is None else str(job.checkpoint["container"])


publisher = GalleryPublisher(Gallery(Path(os.environ.get("GALLERY_PATH", PATH))))
