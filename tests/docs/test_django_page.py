"""The page about Django: its files are a project, whose tests `manage.py test` runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from assistly.storage import JobStatus, open_storage
from docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "django.md"

MANAGE = """\
import os
from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line()
"""

SETTINGS = """
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", *reversed(INSTALLED_APPS)]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "not secret"
"""

MORE_TESTS = '''\
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.test import RequestFactory, TestCase, TransactionTestCase

from assistly.integrations.django import get_storage

from .models import Order, place_order
from .tests import PublishTest
from .views import order


class ContentsTest(TestCase):
    """What apps write after the app of the storage has made its tables is in each copy of the database."""

    def test_permissions(self):
        self.assertEqual(Permission.objects.filter(codename__endswith="_order").count(), 4)


class ContentsAgainTest(ContentsTest):
    """In another process, if there are two."""


class CommittedTest(TransactionTestCase):
    """The ids of orders, and so the keys of jobs, begin again in each test."""

    reset_sequences = True
    tearDown = PublishTest.tearDown

    def place(self, item):
        place_order(item)
        (job,) = get_storage().queue.list()
        self.assertEqual(job.content, f"Another {item} is on its way.")

    def test_one(self):
        self.place("scone")

    def test_another(self):
        self.place("bun")

    def test_rollback(self):
        with self.assertRaises(KeyError), transaction.atomic():
            place_order("cake")
            raise KeyError
        self.assertEqual((Order.objects.count(), get_storage().queue.list()), (0, []))

    async def test_async(self):
        answer = await order(RequestFactory().post("/", {"item": "roll"}))
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(len(get_storage().queue.list()), 1)
'''

Manage = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    path = os.pathsep.join(str(Path(each).resolve()) for each in sys.path if each)
    return {"PYTHONPATH": path, "PATH": os.environ["PATH"]}


@pytest.fixture
def manage(tmp_path: Path) -> Manage:
    """Runs a command of `manage.py` in the project, and checks that it succeeds."""
    files = {block.name: block.code for block in blocks(PAGE) if block.kind == "file"}
    files["settings.py"] += SETTINGS
    files |= {"manage.py": MANAGE, "shop/__init__.py": "", "shop/test_more.py": MORE_TESTS}
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "manage.py", *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def postgres_project(manage: Manage, tmp_path: Path, database_url: str) -> None:
    """The same project on Postgres, with a database that is nobody else's."""
    given = conninfo_to_dict(database_url)
    database = {
        name: given[key]
        for name, key in [("USER", "user"), ("PASSWORD", "password"), ("HOST", "host"), ("PORT", "port")]
        if given.get(key)
    }
    database |= {"ENGINE": "django.db.backends.postgresql", "NAME": f"shop_{uuid.uuid4().hex[:8]}"}
    with (tmp_path / "settings.py").open("a") as file:
        file.write(f"DATABASES = {{'default': {database!r}}}\n")


def check(done: subprocess.CompletedProcess[str], tests: int) -> None:
    assert re.search(rf"^Ran {tests} tests in .*\n\nOK$", done.stderr, re.MULTILINE), done.stderr


def test_on_sqlite(manage: Manage, tmp_path: Path) -> None:
    check(manage("test", "--noinput"), 8)
    for _ in ("no files of an earlier run", "another run in the same folder"):
        check(manage("test", "--noinput", "--parallel", "2"), 8)
        assert not [*tmp_path.glob("*.db*")]


@pytest.mark.usefixtures("postgres_project")
def test_on_postgres(manage: Manage) -> None:
    for options in ((), ("--parallel", "2")):  # a run fails if it cannot delete the test database
        check(manage("test", "--noinput", *options), 8)


def test_the_worker(manage: Manage, tmp_path: Path) -> None:
    manage("migrate", "--run-syncdb")
    manage("shell", "-c", "from shop.models import place_order; place_order('roll')")
    command = [sys.executable, "manage.py", "publish"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "Another roll is on its way.\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == -signal.SIGTERM
    with open_storage(engine="sqlite", sqlite_path=tmp_path / "shop.db") as storage:
        assert [job.status for job in storage.queue.list()] == [JobStatus.POSTED]


def test_migrate_makes_the_tables(manage: Manage, tmp_path: Path) -> None:
    manage("migrate", "--run-syncdb")
    assert "assistly_queue_jobs" in manage("inspectdb", "assistly_queue_jobs").stdout
    assert [path.name for path in tmp_path.glob("*.db*")] == ["shop.db"]


def test_a_database_in_memory(manage: Manage, tmp_path: Path) -> None:
    with (tmp_path / "settings.py").open("a") as file:
        file.write("del DATABASES['default']['TEST']\n")
    with pytest.raises(AssertionError, match=r"""'default' is in memory, .*"NAME": "test.db""") as raised:
        manage("test")
    assert "Exception ignored" not in str(raised.value)
