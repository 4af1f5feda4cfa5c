"""What all tests share: the layers, one after the other, through one fixture, and the servers they need."""

from __future__ import annotations

import gc
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import TransactionTestCase
from django.utils import translation
from hypothesis import settings as hypothesis_settings

from mailrail import routing
from mailrail.layers import (
    DatabaseChannelLayer,
    DurableLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    get_layer,
)
from mailrail.monitoring import sampler
from mailrail.routing import Routing
from mailrail.worker import maintenance

from .emptying import end_of_test
from .processes import Ledger
from .servers import PostgresServer, ValkeyServer
from .settings import postgres
from .topologies import ValkeyCluster

# An example may take long where there are more processes than cores, and that is no failure.
hypothesis_settings.register_profile("of these tests", hypothesis_settings(), deadline=None)
hypothesis_settings.load_profile("of these tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Some tests log halves of surrogate pairs, which no report can be sent with between processes (pytest-xdist)."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


LONG = (
    "tests/faults/test_mail_rates",
    "tests/faults/test_valkey",
    "tests/faults/test_servers",
    "tests/test_runserver",
    "tests/demo/test_demo",
    "tests/pages/test_every_page",
    "tests/pages/test_admin_pages",
    "tests/worker/test_worker",
    "tests/test_tutorial",
    "tests/faults/test_faults",
    "tests/layers/test_state_machine",
    "tests/faults/",
    "tests/test_commands",
    "tests/mail/test_compose_properties",
    "tests/test_poolers",
    "tests/test_transactions",
    "tests/test_admin",
    "tests/mail/test_admin",
    "tests/demo/",
    "tests/pages/",
    "tests/mail/test_retention",
    "tests/layers/",
    "tests/worker/",
    "tests/mail/",
)
"""Where the files are that take longest, the longest first. Half of what they take is waiting."""

NOT_QUICK = (
    "tests/demo/",
    "tests/faults/",
    "tests/invitations/test_addresses.py::test_django_can",
    "tests/invitations/test_admin",
    "tests/invitations/test_bulk.py::test_10000",
    "tests/invitations/test_invitation_checks",
    "tests/invitations/test_views.py::test_whatever",
    "tests/layers/test_outbox",
    "tests/layers/test_plans",
    "tests/layers/test_postgresql",
    "tests/layers/test_redis",
    "tests/layers/test_state_machine",
    "tests/mail/test_admin",
    "tests/mail/test_as_djangos",
    "tests/mail/test_buried",
    "tests/mail/test_compose.py::test_base64",
    "tests/mail/test_compose_properties",
    "tests/mail/test_content.py::test_any",
    "tests/mail/test_domains",
    "tests/mail/test_fault_matrix",
    "tests/mail/test_in_consumers",
    "tests/mail/test_logins",
    "tests/mail/test_mail_plans",
    "tests/mail/test_moving.py::test_mail_of",
    "tests/mail/test_order",
    "tests/mail/test_rates.py::test_a_long",
    "tests/mail/test_waiting",
    "tests/mail/test_replies.py::test_policy",
    "tests/mail/test_retention",
    "tests/mail/test_senders",
    "tests/mail/test_smtp_backend.py::test_the_same",
    "tests/mail/test_smtp_dialogue.py::test_the_account",
    "tests/mail/test_smtp_sessions.py::test_a_large",
    "tests/mail/test_statement_plans",
    "tests/mail/test_unforeseen",
    "tests/mail/test_whole_words.py::test_words_longer",
    "tests/mail/test_wrong_arguments.py::test_output",
    "tests/pages/",
    "tests/schedule/test_schedule_admin",
    "tests/soak/",
    "tests/tasks/test_admin",
    "tests/tasks/test_plans",
    "tests/tasks/test_running.py::test_a_return_value_of_10",
    "tests/test_admin",
    "tests/test_commands",
    "tests/test_install",
    "tests/test_messages.py::TestRoundTripsOnTheDatabase",
    "tests/test_poolers",
    "tests/test_runserver",
    "tests/test_side_by_side",
    "tests/test_testing.py::test_the_fixtures",
    "tests/test_testing.py::test_the_plugin",
    "tests/test_testing_mail.py::test_a_project_under",
    "tests/test_transactions",
    "tests/test_tutorial",
    "tests/test_two_databases",
    "tests/worker/test_applications",
    "tests/worker/test_parts",
    "tests/worker/test_what_goes_wrong",
)
"""Folders, files and tests, by what their names begin with, that take most of the time that `make quick` has not."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only what takes a minute in all, for `make quick`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    path = collection_path.relative_to(config.rootpath).as_posix() + "/" * collection_path.is_dir()
    return True if config.getoption("quick") and path.startswith(NOT_QUICK) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes, none shall begin a long file when the others are done. Alone, the quick ones come first."""

    def rank(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG))

    if hasattr(config, "workerinput"):
        items.sort(key=rank)
    if config.getoption("quick"):
        items[:] = [item for item in items if _is_quick(item.nodeid)]


def _is_quick(nodeid: str) -> bool:
    """What holds on SQLite and on one Redis holds on the other layers, too, nearly always."""
    return not nodeid.startswith(NOT_QUICK) and not re.search(
        r"\[(.*-)?(postgres|redis-cluster)[-\]]", nodeid
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a quarter of the time of each is waiting."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores + 1


def pytest_collection(session: pytest.Session) -> None:
    """Thousands of tests are made, and none is garbage before its time: looking for some took a third of this."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """From now on the garbage collector passes over what all tests stand on."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """`.ci/run` has to know whether tests failed, or something else."""
    cache = getattr(session.config, "cache", None)  # there is none with `-p no:cacheprovider`
    if not hasattr(session.config, "workerinput") and cache is not None:
        cache.set("mailrail/exit_status", int(exitstatus))


@pytest.fixture(scope="session", autouse=True)
def samples_are_taken_by_whoever_asks() -> Iterator[None]:
    """On a busy machine a sample takes long. Whether a test sees the last one instead must not depend on that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "SLOW_S", float("inf"))
        yield


@pytest.fixture(scope="session", autouse=True)
def emptied_quickly() -> Iterator[None]:
    """pytest-django makes a ``TransactionTestCase`` of each test with ``transaction=True``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", end_of_test)
        yield


@pytest.fixture(scope="session", autouse=True)
def without_services() -> Iterator[None]:
    """Workers within a test's process look at no schedule: its entries are those of any test before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maintenance, "_services", {})
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server behind the database alias "postgres"."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Keep a connection to each file: the last one to be closed copies the log back and removes it, in 15 ms."""
    files = [
        connection.settings_dict["NAME"] for connection in connections.all() if connection.vendor == "sqlite"
    ]
    with ExitStack() as stack:
        for file in files:
            kept = stack.enter_context(closing(sqlite3.connect(file)))
            kept.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens it
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_server: PostgresServer) -> None:
    """Add the alias before the test databases are made, for this process and for those that tests start."""
    os.environ["MAILRAIL_TEST_POSTGRES_PORT"] = str(postgres_server.port)
    settings.DATABASES["postgres"] = postgres()
    connections.configure_settings(settings.DATABASES)  # fills in the defaults


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Run something on another thread, so on another connection."""
    pool = ThreadPoolExecutor(1)

    def run(action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return pool.submit(action, *arguments, **named).result(timeout=30)

    run.submit = pool.submit  # type: ignore[attr-defined]
    yield run
    pool.submit(connections.close_all).result(timeout=30)
    pool.shutdown()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def on_postgres(settings: Any) -> Iterator[DurableLayer]:
    """The layer of the settings, on PostgreSQL."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
    }
    yield get_layer()
    get_layer().stop_listening()
    connections["postgres"].close()


@pytest.fixture
def broken_app(settings: Any) -> Iterator[None]:
    """Install the app whose consumers have mistakes, and forget them behind the test."""
    Routing.of_layer()  # imports what the other apps register, which happens once in a process
    before = list(routing._registered)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests.broken_app"]
    yield
    routing._registered[:] = before
    sys.modules.pop("tests.broken_app.consumers", None)


@pytest.fixture
def many_languages(settings: Any) -> Iterator[None]:
    """The pages are in the language that is asked for. Its middleware leaves that active for whoever comes next."""
    name = "django.middleware.locale.LocaleMiddleware"  # behind the session
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:1], name, *settings.MIDDLEWARE[1:]]
    yield
    translation.deactivate()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium. Playwright bears one at a time in a process."""
    from .chromium import WITHOUT, chromium, program  # 0.2 s that most tests do without

    if program() is None:
        pytest.skip(WITHOUT)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """The server, empty."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server


@pytest.fixture(scope="session")
def valkey_cluster_nodes() -> Iterator[ValkeyCluster]:
    cluster = ValkeyCluster()
    cluster.start()
    yield cluster
    cluster.remove()


@pytest.fixture
def valkey_cluster(valkey_cluster_nodes: ValkeyCluster) -> ValkeyCluster:
    """Three nodes, empty."""
    valkey_cluster_nodes.clear()
    return valkey_cluster_nodes


LAYERS = [
    "memory",
    pytest.param("default", id="sqlite", marks=pytest.mark.django_db(transaction=True)),
    pytest.param(
        "postgres", id="postgres", marks=pytest.mark.django_db(transaction=True, databases=["postgres"])
    ),
    "redis",
    "redis-cluster",
]


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Iterator[DurableLayer]:
    """Every layer that is held to the contract. A new one is added here, and only here."""
    layer: DurableLayer
    if request.param == "memory":
        layer = InMemoryChannelLayer()
    elif request.param == "redis":
        layer = RedisChannelLayer([request.getfixturevalue("valkey").url])
    elif request.param == "redis-cluster":
        layer = RedisChannelLayer(request.getfixturevalue("valkey_cluster").urls[:2], cluster=True)
    else:
        layer = DatabaseChannelLayer(using=request.param)
    yield layer
    layer.stop_listening()
