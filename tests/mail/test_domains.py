"""International domains: on the wire, in what is compared, and in what is erased."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import call_command

from mailrail import mail
from mailrail.errors import InvalidSettings
from mailrail.mail import CannotQueue, Email, Status
from mailrail.mail.delivery.record import domain_of
from mailrail.mail.mailers.config import build
from mailrail.mail.models import Suppression
from mailrail.mail.records.suppressions import hash_address
from mailrail.mail.smtp import EmailBackend, close_pools
from mailrail.testing import drain

from ..smtp_server import ScriptedServer
from .test_smtp_backend import backend

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Queueing = Callable[..., None]
SPELLINGS = ["gone@exämple.com", "Gone <GONE@EXÄMPLE.com>", "gone@xn--exmple-cua.com", "gone@exämple。com"]


class Own(smtp.EmailBackend):
    """Of a project, by smtplib."""


class Kept(BaseEmailBackend):
    """Keeps what it is told."""

    told: list[tuple[list[str], str]] = []  # noqa: RUF012

    def send_messages(self, email_messages: Any) -> int:
        self.told += [(each.recipients(), str(each.message()["To"])) for each in email_messages]
        return len(email_messages)


class WritesItself(EmailMessage):
    """Has an address that is in none of Django's fields."""

    def recipients(self) -> list[str]:
        return ["x@faß.de"]

    def message(self, **options: Any) -> Any:
        written = EmailMessage(self.subject, self.body, self.from_email, self.recipients())
        return written.message(**options)


def sharp(**more: Any) -> EmailMessage:
    fields: dict[str, Any] = {
        "to": ["Faß <x@faß.de>"],
        "from_email": "me@faß.de",
        "body": "A body.\n",
        **more,
    }
    return EmailMessage("Hello", **fields)


UNCOMMON = {"headers": {"Sender": "Ann <s@faß.de>", "Content-Language": "de"}, "reply_to": ["r@faß.de"]}


@pytest.mark.parametrize("more", [{}, UNCOMMON], ids=["common", "uncommon"])
@pytest.mark.parametrize("path", ["django.core.mail.backends.smtp.EmailBackend", f"{__name__}.Own"])
def test_a_sharp_s_is_no_double_s_on_any_way_to_a_server(queueing: Queueing, more: Any, path: str) -> None:
    with ScriptedServer() as server:
        queueing(server.port, path)
        sharp(**more).send()
        drain("mailrail.mail")
        [arrived] = server.mails
    assert (arrived.sender, arrived.recipients) == ("me@xn--fa-hia.de", ("x@xn--fa-hia.de",))
    assert b"fass.de" not in arrived.content and b"<x@xn--fa-hia.de>" in arrived.content
    assert arrived.content.count(b"@xn--fa-hia.de") == (4 if more else 2)


@pytest.mark.parametrize("more", [{}, UNCOMMON], ids=["common", "uncommon"])
def test_our_smtp_backend_does_it_without_a_queue_and_leaves_the_message_as_it_was(more: Any) -> None:
    message = sharp(**more)
    with ScriptedServer() as server:
        assert backend(server, EmailBackend).send_messages([message]) == 1
        [arrived] = server.mails
        close_pools()
    assert arrived.recipients == ("x@xn--fa-hia.de",) and b"fass.de" not in arrived.content
    assert (message.to, message.from_email) == (["Faß <x@faß.de>"], "me@faß.de")


def test_a_backend_of_another_kind_is_given_the_domain_in_ascii(
    queueing: Queueing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kept, "told", [])
    queueing(0, f"{__name__}.Kept")
    sharp().send()
    drain("mailrail.mail")
    [(recipients, header)] = Kept.told
    assert recipients == ["Faß <x@xn--fa-hia.de>"] and header.endswith("<x@xn--fa-hia.de>")
    assert Email.objects.get().recipients[0]["address"] == "Faß <x@faß.de>"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (lambda: sharp(to=["x@i♥.ws"]), "'i♥.ws' is no domain by IDNA 2008"),
        (lambda: sharp(from_email="x@i♥.ws"), "write it as xn--"),
        (lambda: sharp(reply_to=["x@i♥.ws"]), "write it as xn--"),
        (lambda: WritesItself("Hi", "Text.", "me@example.com"), "writes the domain 'faß.de' as 'fass.de'"),
    ],
    ids=["recipient", "sender", "reply-to", "class"],
)
def test_a_domain_that_would_be_another_one_or_none_is_refused(
    queueing: Queueing, message: Callable[[], EmailMessage], said: str
) -> None:
    queueing(1)
    with pytest.raises(CannotQueue, match=said):
        mail.queue(message())
    assert not Email.objects.exists()


@pytest.mark.parametrize("name", [lambda address: address, hash_address], ids=["named", "hashed"])
@pytest.mark.parametrize("to", SPELLINGS)
def test_a_suppressed_mailbox_is_suppressed_in_every_spelling(
    queueing: Queueing, to: str, name: Callable[[str], str], on: str
) -> None:
    queueing(1)
    Suppression.objects.create(address=name("gone@xn--exmple-cua.com"))
    email = mail.queue(sharp(to=[to]))
    drain("mailrail.mail")
    email.refresh_from_db()
    assert email.status == Status.SUPPRESSED


def test_one_that_was_erased_by_its_other_spelling_stays_suppressed(queueing: Queueing) -> None:
    queueing(1)
    Suppression.objects.create(address=hash_address("gone@exämple.com"))
    email = mail.queue(sharp(to=["gone@xn--exmple-cua.com"]))
    drain("mailrail.mail")
    email.refresh_from_db()
    assert email.status == Status.SUPPRESSED


def test_a_mailbox_that_is_no_more_gets_one_row_whatever_its_spelling(queueing: Queueing) -> None:
    refused = {"gone@xn--exmple-cua.com": "550 5.1.1 no such user"}
    with ScriptedServer(refused=refused) as server:
        queueing(server.port)
        for to in SPELLINGS:
            mail.queue(sharp(to=[to]))
        drain("mailrail.mail")
    assert [row.address for row in Suppression.objects.all()] == ["gone@xn--exmple-cua.com"]


def test_rates_of_a_domain_hold_for_both_spellings_and_are_given_for_one() -> None:
    rates = build({"out": {"RATES": {"Exämple.com": "5/s", "faß.de": "1/s"}}})["out"].rates
    assert {domain_of(address) for address in SPELLINGS} == {"xn--exmple-cua.com"} <= rates.keys()
    assert domain_of("x@faß.de") in rates and domain_of("x@fass.de") not in rates
    with pytest.raises(InvalidSettings, match=r"names the domain 'xn--exmple-cua.com' twice"):
        build({"out": {"RATES": {"exämple.com": "5/s", "xn--exmple-cua.com": "1/s"}}})


@pytest.mark.parametrize("given", ["gone@exämple.com", "gone@xn--exmple-cua.com"])
def test_an_address_is_erased_in_every_spelling(queueing: Queueing, given: str, on: str) -> None:
    queueing(1)
    for to in (*SPELLINGS, "gone@EXA\u0308MPLE.com"):
        mail.queue(sharp(to=[to]))
    other = mail.queue(sharp(to=["gone@example.com"]))
    Suppression.objects.create(address="gone@xn--exmple-cua.com")
    mentioned = mail.queue(sharp(body="Write to gone@Exämple.com, or to gone@xn--exmple-cua.com!\n"))
    Email.objects.filter(pk=mentioned.pk).update(status="sent", tags=["welcome-gone@exämple.com"])
    user = User.objects.create_user("staff")
    kind = ContentType.objects.get_for_model(Suppression)
    LogEntry.objects.create(
        user=user,
        content_type=kind,
        object_id="gone@exämple.com",
        object_repr="gone@exämple.com",
        action_flag=CHANGE,
    )
    out = io.StringIO()
    call_command("prunemail", "--address", given, stdout=out)
    assert "5 emails deleted, 1 emptied" in out.getvalue()
    mentioned.refresh_from_db()
    assert (mentioned.content, mentioned.tags) == ({}, ["welcome-[erased]"])
    assert set(Email.objects.values_list("pk", flat=True)) == {other.pk, mentioned.pk}
    assert [row.address for row in Suppression.objects.all()] == [hash_address("gone@xn--exmple-cua.com")]
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.object_repr) == (hash_address("gone@xn--exmple-cua.com"), "[erased]")


def test_an_address_in_ascii_is_erased_where_its_domain_was_typed_in_full_width(
    queueing: Queueing, on: str
) -> None:
    queueing(1)
    mail.queue(sharp(to=["gone@ｅxample。com"]))
    out = io.StringIO()
    call_command("prunemail", "--address", "gone@example.com", stdout=out)
    assert "1 emails deleted" in out.getvalue() and not Email.objects.exists()


@pytest.mark.parametrize("spelling", [*SPELLINGS[:1], "GONE@XN--exmple-CUA.com", "gone@exämple.com."])
@pytest.mark.parametrize("how", ["save", "create", "bulk_create"])
def test_a_row_that_code_writes_suppresses_the_mailbox_however_it_is_spelt(
    on: str, queueing: Queueing, spelling: str, how: str
) -> None:
    if how == "save":
        row = Suppression(address=spelling)
        row.save()
        assert row.address == "gone@xn--exmple-cua.com"
    elif how == "create":
        Suppression.objects.create(address=spelling)
    else:
        Suppression.objects.bulk_create([Suppression(address=spelling)])
    assert Suppression.objects.filter(address="gone@exämple.com").exists()
    assert Suppression.objects.filter(pk__in=["GONE@EXÄMPLE.com"]).exists()
    queueing(0, f"{__name__}.Kept")
    Kept.told.clear()
    EmailMessage("Hi", "Text.", "me@example.com", ["gone@exämple.com"]).send()
    drain("mailrail.mail")
    assert (Kept.told, Email.objects.get().status) == ([], Status.SUPPRESSED)
