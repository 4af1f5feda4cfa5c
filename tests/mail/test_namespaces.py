"""Mail of two projects with namespaces, and of one without, in the same tables: none has to do with another's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import connections, models
from django.test import Client
from django.utils import timezone

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email, Status, health
from mailrail.mail.mailers import circuit, refused_senders, throttle
from mailrail.mail.mailers.connection_limits import reserved_connections
from mailrail.mail.mailers.logins import Login
from mailrail.mail.models import (
    EmailFile,
    File,
    MailerConnection,
    MailerLogin,
    MailerState,
    MailerThrottle,
    RefusedSender,
    Suppression,
)
from mailrail.mail.records import overview, suppressions
from mailrail.reconciliation import reconcilers
from mailrail.routing import Routing
from mailrail.testing import drain

from ..smtp_server import ScriptedServer
from .conftest import CHANNEL, MAILER

NAMES = ("", "shop", "forum")
ALIAS = "" if MAILER == "default" else MAILER
BIG = b"big" * 50_000
BY_NAME = {MailerLogin, MailerThrottle, MailerConnection, MailerState, RefusedSender, Suppression}
As = Callable[[str], None]


@pytest.fixture
def become(settings: Any, on: str, queueing: Callable[..., None]) -> As:
    """From now on this process is one of the project with this namespace."""
    queueing(1)

    def change(name: str) -> None:
        settings.MAILRAIL = {**settings.MAILRAIL, "NAMESPACE": name}
        throttle.forget()
        refused_senders.forget()

    return change


def message(of: str) -> EmailMessage:
    made = EmailMessage(f"of {of}", "A body.\n", "me@example.com", ["you@example.com"])
    made.attach("big.bin", BIG, "application/octet-stream")
    return made


def queue_in_each(become: As) -> dict[str, Email]:
    found = {}
    for name in NAMES:
        become(name)
        found[name] = mail.queue(message(name), key="the same")
    return found


def test_each_project_delivers_counts_and_names_its_own_mail_alone(
    become: As, queueing: Callable[..., None], on: str
) -> None:
    queued = queue_in_each(become)
    assert len({email.pk for email in queued.values()}) == 3
    with ScriptedServer() as server:
        queueing(server.port)
        for number, name in enumerate(NAMES, 1):
            become(name)
            assert Email.objects.get() == queued[name] == mail.queue(message(name), key="the same")
            assert [each.count for each in overview.waiting(on)] == [1]
            assert len(health._late(timezone.now() + timedelta(seconds=1))) == 1
            drain("mailrail.mail")
            assert len(server.mails) == number and Email.objects.get().status == Status.SENT
            assert overview.waiting(on) == [] and overview.ended(on)["sent"] == (1, False)
    of = Email._base_manager.using(on).order_by("pk").values_list("namespace", "key")
    assert list(of) == [(name, "the same") for name in NAMES]


def test_reconciliation_sends_the_messages_of_a_projects_own_mail(become: As, on: str) -> None:
    queue_in_each(become)
    with connections[on].cursor() as cursor:
        cursor.execute("DELETE FROM mailrail_message")
    become("shop")
    Routing.of_layer()
    assert sum(each.run(0.0) for each in reconcilers(get_layer()) if each.channel == "mailrail.mail.*") == 1
    assert get_layer().stats()[CHANNEL].ready == 1
    become("forum")
    assert CHANNEL not in get_layer().stats()


def note_all(on: str, of: str) -> None:
    """Let a mailer have every state that there is."""
    circuit.trip(ALIAS, f"of {of}", on)
    mail.pause(MAILER, reason=f"of {of}")
    throttle.slow_down(ALIAS, "example.com", 5.0, of, on)
    RefusedSender.objects.using(on).create(mailer=ALIAS, sender="me@example.com", reason=of)
    login = Login(ALIAS, "", on)  # nobody logs in
    login.key = of or "none"
    assert login.may_begin() and login.is_first
    Suppression.objects.using(on).create(address="You@Example.com", note=of)


def test_no_state_of_a_mailer_and_no_suppressed_address_is_anothers(
    become: As, on: str, policy: Callable[..., None]
) -> None:
    policy(CONNECTIONS=1)
    for name in NAMES:
        become(name)
        assert circuit.permission_of(ALIAS, on).limit and overview.states(on) == []
        assert suppressions.listed(["you@example.com"], on) == {}
        assert refused_senders.known(ALIAS, on) == [] and throttle.slowed(ALIAS, on) == {}
        note_all(on, name)
        assert circuit.permission_of(ALIAS, on).is_paused
        assert [(it.pk, it.reason) for it in overview.states(on)] == [(ALIAS, f"of {name}")]
        [why] = suppressions.listed(["you@example.com"], on).values()
        assert why == f"suppressed: bounce {name}".strip()
        assert [(it.mailer, it.reason) for it in refused_senders.refused_senders(on)] == [(ALIAS, name)]
        assert list(throttle.slowed(ALIAS, on)) == ["example.com"]
        throttle.forget()
    become("shop")
    with reserved_connections(ALIAS, 1, on) as ours:
        become("forum")
        with reserved_connections(ALIAS, 1, on) as theirs:
            assert ours.limit == theirs.limit == 1  # each project has its one connection
    mail.resume(MAILER)
    assert mail.allow_sender(MAILER, "me@example.com") == 0
    suppressions.forget("you@example.com", on)
    assert overview.states(on) == [] and not Suppression.objects.using(on).exists()
    become("shop")
    assert overview.states(on) and Suppression.objects.using(on).exists()
    assert RefusedSender.objects.using(on).exists()


def test_every_table_of_mail_tells_whose_its_rows_are(
    become: As, on: str, policy: Callable[..., None]
) -> None:
    """A new model has to say how: by a qualified name, or by a column."""
    policy(CONNECTIONS=1)
    become("shop")
    mail.queue(message("shop"))
    note_all(on, "shop")
    with reserved_connections(ALIAS, 1, on):
        for model in {each for each in vars(mail.models).values() if is_model(each)} - {EmailFile}:
            column = "namespace"
            if model in BY_NAME:
                column = "address" if model is Suppression else "mailer"
            with connections[on].cursor() as cursor:
                cursor.execute(f"SELECT {column} FROM {model._meta.db_table}")
                stored = [value for (value,) in cursor.fetchall()]
            assert stored, model
            assert all(value == "shop" or value.startswith(":shop:") for value in stored), model
            become("forum")
            assert not model._default_manager.using(on).exists(), model
            become("shop")


def is_model(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, models.Model) and each.__module__ == Email.__module__


def test_pruning_and_erasing_leave_the_mail_and_the_files_of_others(
    become: As, on: str, settings: Any, tmp_path: Path
) -> None:
    settings.STORAGES = {
        **settings.STORAGES,
        "mail": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}},
    }
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_STORAGE": "mail"}
    queue_in_each(become)
    folder = tmp_path / "mailrail-mail"
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 3
    old = timezone.now() - timedelta(days=50)
    Email._base_manager.using(on).update(status=Status.SENT, changed_at=old)
    become("shop")
    prune("--bodies-after", "30")
    assert not File.objects.using(on).exists() and not list((folder / "shop").iterdir())
    become("forum")
    prune("--address", "you@example.com")
    assert not Email.objects.using(on).exists() and not list((folder / "forum").iterdir())
    become("shop")
    assert Email.objects.using(on).get().recipients[0]["address"] == "you@example.com"
    become("")
    assert Email.objects.using(on).get().content["large"] and File.objects.using(on).count() == 1
    assert len([path for path in folder.iterdir() if path.is_file()]) == 1


def prune(*arguments: str) -> None:
    call_command("prunemail", *arguments, stdout=StringIO())


def test_the_admin_shows_and_changes_a_projects_own_mail_alone(become: As, client: Client) -> None:
    queued = queue_in_each(become)
    for name in NAMES:
        become(name)
        Suppression.objects.create(address=f"{name or 'none'}@example.com")
    client.force_login(User.objects.create_superuser("boss"))
    become("shop")
    page = client.get("/admin/mailrail_mail/email/").content.decode()
    assert "of shop" in page and "of forum" not in page and str(queued[""].pk) not in page
    assert client.get(f"/admin/mailrail_mail/email/{queued['forum'].pk}/change/").status_code == 302
    assert mail.cancel(queued["forum"].pk).done == []
    for query in ("", "?q=shop@", "?q=shop@example.com"):
        page = client.get(f"/admin/mailrail_mail/suppression/{query}").content.decode()
        assert "shop@" in page.replace("<wbr>", "") and "none@" not in page and ":shop:" not in page
    assert "none@" not in client.get("/admin/mailrail_mail/suppression/?q=none@").content.decode().replace(
        'value="none@"', ""
    )


def test_a_project_that_gets_a_name_keeps_its_records_by_the_statements_of_the_how_to(
    become: As, on: str
) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/deploy.md").read_text()
    statements = page.partition("```sql\n")[2].partition("```")[0]
    become("")
    queued = mail.queue(message(""), key="the same")
    Suppression.objects.using(on).create(address="you@example.com")
    with connections[on].cursor() as cursor:
        for statement in statements.strip().splitlines():
            cursor.execute(statement)
    become("shop")
    assert Email.objects.using(on).get() == queued and File.objects.using(on).count() == 1
    assert Suppression.objects.using(on).get().address == "you@example.com"
    become("")
    assert not Email.objects.using(on).exists() and not Suppression.objects.using(on).exists()
