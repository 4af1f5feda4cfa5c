"""Tenants in schemas of their own: the page on them is run, on a PostgreSQL with two, by switching its search_path."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.core.mail import EmailMessage, send_mail
from django.db import connections, transaction

from mailrail import Channel, mail, routing
from mailrail.layers import DurableLayer, get_layer
from mailrail.mail.models import Email
from mailrail.models import StoredMessage
from mailrail.reconciliation import reconcilers
from mailrail.routing import Routing
from mailrail.worker import Worker

from ..processes import ROOT
from ..smtp_server import ScriptedServer

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.usefixtures("fresh_connections", "on_postgres"),
]

TENANTS = ("acme", "bolt")
PAGE = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/tenants.md").read_text(), re.DOTALL))


@contextmanager
def schema_context(name: str) -> Iterator[None]:
    """Do what that of django-tenants does: the calling thread's connection looks there first, then into public."""
    usual: Any = connections["default"]
    connection = connections["postgres"]
    before = getattr(usual, "schema_name", "public")
    switch(connection, name)
    usual.schema_name = name
    try:
        yield
    finally:
        usual.schema_name = before
        switch(connection, before)


def switch(connection: Any, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET search_path = {name}, public")


@pytest.fixture
def page(
    settings: Any, monkeypatch: pytest.MonkeyPatch, on_postgres: DurableLayer
) -> Iterator[dict[str, Any]]:
    """What the page defines, in a project with an order in the schema of each tenant."""
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    utils = ModuleType("django_tenants.utils")
    utils.__dict__.update(schema_context=schema_context, get_public_schema_name=lambda: "public")
    monkeypatch.setitem(sys.modules, "django_tenants", ModuleType("django_tenants"))
    monkeypatch.setitem(sys.modules, "django_tenants.utils", utils)
    names: dict[str, Any] = {}
    exec(PAGE, names)
    monkeypatch.setattr("tests.routes.outer", names["in_tenant"])
    settings.MAILRAIL = {**settings.MAILRAIL, "CONSUMER_MIDDLEWARE": ["tests.routes.outer"]}
    with connections["postgres"].cursor() as cursor:
        for tenant in TENANTS:
            cursor.execute(f"CREATE SCHEMA {tenant} CREATE TABLE orders (id int, what text)")
            cursor.execute(f"INSERT INTO {tenant}.orders VALUES (1, 'of {tenant}')")
    yield names
    with connections["postgres"].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {', '.join(TENANTS)} CASCADE")


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``consumers(ship=…)``: these, and that of email."""
    Routing.of_layer()  # imports them
    known = [route for route in routing._registered if "mailrail.mail.*" in route.channels]
    monkeypatch.setattr("mailrail.routing._registered", known)
    monkeypatch.setattr(Routing, "of_layer", lambda alias=None: Routing(known))

    def register(**functions: Any) -> None:
        for name, function in functions.items():
            routing.consumer(name, **getattr(function, "options", {}))(function)

    return register


def work(*channels: str) -> None:
    Worker(get_layer(), Routing.of_layer(), [*channels, "mailrail.mail"], drain=True).run()


def order_of(tenant: str) -> Any:
    return SimpleNamespace(pk=1, text="Thank you.", email=f"ann@{tenant}.example", customer_id=1)


def subjects(server: ScriptedServer) -> list[str]:
    return sorted(message_from_bytes(each.content)["Subject"] for each in server.mails)


def read_order(id: int) -> str:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT what FROM orders WHERE id = %s", [id])
        [(what,)] = cursor.fetchall()
        return str(what)


def test_mail_that_tenants_queue_arrives_once_from_each(page: Any, consumers: Any, queueing: Any) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        for tenant in TENANTS:
            with schema_context(tenant):
                with transaction.atomic("postgres"):
                    page["queue_receipt"](order_of(tenant))
                    send_mail(read_order(1), "", "me@example.com", ["ann@example.com"])
                with transaction.atomic("postgres"):
                    send_mail("rolled back", "", "me@example.com", ["ann@example.com"])
                    transaction.set_rollback(True, "postgres")
                at_once = EmailMessage(f"{tenant}, at once", "", "me@example.com", ["ann@example.com"])
                mail.queue(at_once, immediately=True)
        work()
        assert subjects(server) == [
            "Your receipt", "Your receipt", "acme, at once", "bolt, at once", "of acme", "of bolt"
        ]  # fmt: skip
        senders = [each.sender for each in server.mails if b"Your receipt" in each.content]
    assert sorted(senders) == ["orders@acme.example", "orders@bolt.example"]
    found = Email.objects.using("postgres").exclude(key=None).values_list("related_object", flat=True)
    assert sorted(found) == ["acme:shop.order:1", "bolt:shop.order:1"]


def test_mail_of_tenants_is_reconciled_and_sent_again(page: Any, consumers: Any, queueing: Any) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        for tenant in TENANTS:
            with schema_context(tenant):
                send_mail(read_order(1), "", "me@example.com", ["ann@example.com"])
        StoredMessage.objects.using("postgres").all().delete()
        sent = [it.run(older_than=0) for it in reconcilers(get_layer()) if it.channel == "mailrail.mail.*"]
        assert sum(sent) == 2
        work()
        assert subjects(server) == ["of acme", "of bolt"]
        with schema_context("acme"):
            mail.resend(Email.objects.filter(subject="of acme"))
        work()
        assert subjects(server) == ["of acme", "of acme", "of bolt"]


def test_a_consumer_runs_in_the_schema_of_who_has_sent(page: Any, consumers: Any, queueing: Any) -> None:
    seen: list[Any] = []

    def ship(message: Any) -> None:
        seen.append(read_order(message["id"]))
        send_mail(f"shipped {seen[-1]}", "", "me@example.com", ["ann@example.com"])

    def index(messages: Any) -> None:
        seen.append((len(messages), {read_order(each["id"]) for each in messages}))

    index.options = {"batch": 10}  # type: ignore[attr-defined]
    consumers(ship=ship, index=index)
    with ScriptedServer() as server:
        queueing(server.port)
        for tenant in (*TENANTS, *TENANTS):
            with schema_context(tenant):
                page["ship"](order_of(tenant))
                Channel("index").send({"id": 1}, headers={"tenant": tenant})
        work("ship")
        assert subjects(server) == ["shipped of acme"] * 2 + ["shipped of bolt"] * 2
    assert sorted(seen) == ["of acme"] * 2 + ["of bolt"] * 2
    seen.clear()
    work("index")
    assert seen == [(2, {"of acme"}), (2, {"of bolt"})]


def test_an_async_consumer_is_left_as_it_is(page: Any) -> None:
    async def consume(message: Any) -> None:
        pass

    assert page["in_tenant"](consume) is consume
