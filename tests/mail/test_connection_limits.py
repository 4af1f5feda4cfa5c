"""``CONNECTIONS``: never more at once, whoever opens them, and none lost with a process that dies."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.utils import timezone

from mailrail.layers import get_layer
from mailrail.mail import queue_many
from mailrail.mail.mailers.connection_limits import _keeper, reserved_connections
from mailrail.mail.models import MailerConnection
from mailrail.routing import Routing
from mailrail.testing import advance
from mailrail.worker import Worker

from ..processes import until
from ..smtp_server import ScriptedServer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]


@pytest.fixture(
    params=["default", pytest.param("postgres", marks=pytest.mark.django_db(databases=["postgres"]))]
)
def using(request: pytest.FixtureRequest) -> str:
    alias: str = request.param
    return alias


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_so_many_at_once_and_no_more(policy: Configure, using: str, elsewhere: Callable[..., Any]) -> None:
    policy("smtp", CONNECTIONS=3)

    def take(most: int) -> int | None:
        with reserved_connections("smtp", most, using) as taken:
            return taken.limit

    with reserved_connections("smtp", 2, using) as first:
        assert first.limit == 2
        assert elsewhere(take, 20) == 1
        with reserved_connections("smtp", 20, using) as second:
            assert second.limit == 1
            assert elsewhere(take, 1) == 0
        assert elsewhere(take, 20) == 1
    assert elsewhere(take, 20) == 3


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_who_died_holds_nothing_after_a_while_and_who_lives_renews(policy: Configure, using: str) -> None:
    policy("smtp", CONNECTIONS=1)

    def nearly_over() -> None:
        MailerConnection.objects.using(using).update(until=timezone.now() + timedelta(seconds=0.2))

    def is_free() -> int | None:
        with reserved_connections("smtp", 1, using) as taken:
            return taken.limit

    with reserved_connections("smtp", 1, using):
        nearly_over()
        _keeper.renew()
        assert is_free() == 0
        assert MailerConnection.objects.using(using).get().until > timezone.now() + timedelta(seconds=15)
        nearly_over()  # and now nobody renews
        until(is_free, 10, "the end of the lease")


def test_no_setting_no_row(policy: Configure) -> None:
    policy("smtp", RATE="10/s")
    with reserved_connections("smtp", 5, "default") as taken:
        assert taken.limit == 5
    assert not MailerConnection.objects.exists()


def test_delivery_keeps_to_it_and_leaves_no_connection_open(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(CONNECTIONS=2)
        queue_many(
            EmailMessage(f"Number {n}", "A body.\n", "me@example.com", ["you@example.com"]) for n in range(60)
        )
        for _ in range(20):
            Worker(get_layer(), Routing.of_layer(), ["mailrail.mail"], drain=True).run()
            advance(70)
        assert len(server.mails) == 60
        until(lambda: server.open_connections == 0, 10, "the end of all connections")
        assert server.most_connections <= 2
    assert not MailerConnection.objects.exclude(holder="").exists()


def test_connections_that_a_client_has_closed_do_not_count() -> None:
    """Of the server that these tests count by: it may be slow to notice."""
    with ScriptedServer() as server:
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                assert client.recv(100).startswith(b"220")
        assert server.most_connections == 1
        with ExitStack() as several:
            for _ in range(3):
                client = several.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                assert client.recv(100).startswith(b"220")
            assert server.most_connections == 3
