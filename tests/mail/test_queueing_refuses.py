"""Email that can never be sent is refused at once; a record that cannot be read fails, and holds up nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email import message_from_bytes, policy
from email.mime.base import MIMEBase
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.core.mail import EmailAlternative, EmailAttachment, EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp
from django.utils.translation import gettext_lazy

from mailrail import mail
from mailrail.mail import CannotQueue, Email, EmailTooLarge, Status
from mailrail.mail.models import EmailFile, File, MailerState
from mailrail.mail.queueing.validation import check_text
from mailrail.testing import advance, drain, sent

from ..smtp_server import ScriptedServer
from .conftest import work
from .test_outcomes import pass_time

pytestmark = pytest.mark.django_db(transaction=True)

Queueing = Callable[..., None]


def message(**more: Any) -> EmailMessage:
    fields = {
        "subject": "Hello",
        "body": "A body.\n",
        "from_email": "me@example.com",
        "to": ["you@example.com"],
    }
    return EmailMessage(**{**fields, **more})


class Unpicklable:
    pass


class Templated(EmailMessage):
    """As django-templated-mail's: it is written from its request and its context."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.template_context = Unpicklable()


class NeedsItsContext(Templated):
    mailrail_attributes = ("template_context",)


def own() -> EmailMessage:
    return NeedsItsContext("Hello", "A body.\n", "me@example.com", ["you@example.com"])


CASES: dict[str, tuple[Callable[[], EmailMessage], type[Exception], str]] = {
    "no recipients": (lambda: message(to=[]), CannotQueue, "no recipients"),
    "NUL in a header with a grammar": (
        lambda: message(headers={"References": "<a\0@b>"}),
        CannotQueue,
        "NUL",
    ),
    "NUL in an address": (lambda: message(to=["a\0b@example.com"]), ValueError, "."),
    "half a character": (lambda: message(body="a\ud800b"), ValueError, "."),
    "CR LF in the subject": (lambda: message(subject="a\r\nBcc: x@example.com"), ValueError, "."),
    "CR LF in a header": (lambda: message(headers={"X-A": "a\r\nB: c"}), ValueError, "."),
    "CR LF in an address": (lambda: message(to=["a@example.com\r\nBcc: x@example.com"]), ValueError, "."),
    "no address": (lambda: message(to=["not an address"]), ValueError, "."),
    "a long address": (lambda: message(to=["a" * 300 + "@example.com"]), CannotQueue, "longer than 254"),
    "a bad sender": (lambda: message(from_email="a b@example.com"), ValueError, "."),
    "a long Message-ID": (
        lambda: message(headers={"Message-ID": f"<{'a' * 300}@x>"}),
        CannotQueue,
        "Message-ID",
    ),
    "what is no data": (own, CannotQueue, "template_context"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_can_never_be_sent_is_refused_at_once(queueing: Queueing, case: str) -> None:
    queueing(1)
    make, error, said = CASES[case]
    with pytest.raises(error, match=said):
        mail.queue(make())
    assert not Email.objects.exists() and sent("mailrail.mail") == []


UNSTORABLE = {
    "NUL": ("a\0b", "NUL"),
    "NUL in a list": (["a", {"b": ["c\0"]}], "NUL"),
    "NUL in a key": ({"a\0": 1}, "NUL"),
    "half a character": ("a\ud800b", "surrogate"),
    "half a character among whole ones": ({"a": ["Grüße", "👍", "\udfff"]}, "surrogate"),
    "half a character in a key": ({"a": {"\ud83d": 1}}, "surrogate"),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_text_that_no_database_stores_is_found_wherever_it_is(case: str) -> None:
    value, said = UNSTORABLE[case]
    with pytest.raises(CannotQueue, match=f"^Its body .*{said}"):
        check_text(value, "Its body")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Grüße 👍 漢",
        "\x01\x7f\x85\xa0\u2028\ue000\U000e0001",
        "\\u0000",
        "\\ud800",
        [1, 2.5, None, True, {"a": ['\n\t"']}],
    ],
    ids=repr,
)
def test_text_that_databases_store_is_left_alone(value: Any) -> None:
    check_text(value, "Its body")


@pytest.mark.parametrize(
    ("priority", "said"),
    [
        ("high", "must be a whole number from -100 to 100, not 'high'"),
        (1000, "must be a whole number from -100 to 100, not 1000"),
        (True, "whole"),
    ],
)
def test_a_priority_that_is_none_is_refused_by_name(queueing: Queueing, priority: Any, said: str) -> None:
    queueing(25)
    with pytest.raises((TypeError, ValueError), match=f"^priority .*{said}"):
        mail.queue(message(), priority=priority)
    assert not Email.objects.exists()


def test_a_class_that_remembers_its_request_is_queued_without_it(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        Templated("Hello", "A body.\n", "me@example.com", ["you@example.com"]).send()
        drain("mailrail.mail")
        assert [each.recipients for each in server.mails] == [("you@example.com",)]


def test_a_large_email_is_refused_and_says_by_which_setting(queueing: Queueing, settings: Any) -> None:
    queueing(1)
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_MAX_BYTES": 1_000_000}
    large = message()
    large.attach("a.bin", b"\0" * 1_000_000, "application/octet-stream")
    with pytest.raises(EmailTooLarge, match="MAIL_MAX_BYTES"):
        large.send()
    assert not File.objects.exists()


def test_one_that_is_refused_takes_none_of_the_others_with_it_half(queueing: Queueing) -> None:
    queueing(1)
    with pytest.raises(CannotQueue):
        mail.queue_many([message(), message(headers={"References": "\0"})])
    assert not Email.objects.exists()


def test_a_long_header_that_can_be_folded_is_no_trouble(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        mail.queue(message(subject="word " * 2000))
        drain("mailrail.mail")
        [arrived] = server.mails
    assert max(map(len, arrived.content.split(b"\r\n"))) <= 998


def test_a_long_header_that_cannot_be_folded_is_refused_or_encoded(queueing: Queueing) -> None:
    """Django encodes it since 6.0."""
    with ScriptedServer() as server:
        queueing(server.port)
        if django.VERSION < (6, 0):
            with pytest.raises(CannotQueue, match="X-A"):
                mail.queue(message(headers={"X-A": "a" * 10_000}))
            return
        mail.queue(message(headers={"X-A": "a" * 10_000}))
        drain("mailrail.mail")
        [arrived] = server.mails
    assert max(map(len, arrived.content.split(b"\r\n"))) <= 998
    assert message_from_bytes(arrived.content, policy=policy.default)["X-A"] == "a" * 10_000


POISON: dict[str, dict[str, Any]] = {
    "content is a list": {"content": []},
    "content is empty": {"content": {}},
    "content of the future": {"content": {"v": 99}},
    "fields are gone": {"content": {"v": 1, "kind": "message"}},
    "a file is gone": {
        "content": {"v": 1, "kind": "finished", "data": "0" * 64, "recipients": [], "fields": {}}
    },
    "files are nonsense": {"content": {"v": 1, "files": {"a": "!"}, "large": 7}},
    "recipients are text": {"recipients": "you@example.com"},
    "recipients are nothing": {"recipients": []},
    "recipients are a number": {"recipients": 7},
    "a recipient has no address": {"recipients": [{"status": "queued"}]},
    "a recipient is injected": {"recipients": [{"address": "a@example.com>\r\nDATA", "status": "queued"}]},
    "events are numbers": {"events": [1]},
    "an unknown status": {"status": "nonsense"},
    "a recipient is half a character": {
        "recipients": [{"address": "\ud800@example.com", "status": "queued"}]
    },
    "a recipient is endless": {"recipients": [{"address": "a" * 4000 + "@example.com", "status": "queued"}]},
    "a Message-ID is injected": {"message_id": "<a@example.com>\r\nBcc: x@example.com"},
    "a file is a number": {"content": {"v": 1, "kind": "message", "files": {"a": 7}, "fields": {}}},
    "fields are numbers": {"content": {"v": 1, "kind": "message", "fields": {"to": 7}, "attributes": {}}},
    "a sender with a newline": {"sender": "a@example.com\r\nX"},
}


@pytest.mark.parametrize("case", POISON)
def test_a_record_that_cannot_be_read_fails_with_its_reason_and_holds_up_nothing(
    queueing: Queueing, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        poisoned, *others = mail.queue_many([message(), message(), message()])
        Email.objects.filter(pk=poisoned.pk).update(**POISON[case])
        work()  # all of them in one batch
        assert len(server.mails) == 2
    email = Email.objects.get(pk=poisoned.pk)
    assert email.status == Status.FAILED and email.events[-1]["why"]
    assert {Email.objects.get(pk=each.pk).status for each in others} == {Status.SENT}
    assert sent("mailrail.mail") == []
    assert f"failed email={poisoned.pk} " in caplog.text
    assert "an error in the delivery" not in caplog.text


def test_an_email_whose_file_is_gone_fails(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        large = message()
        large.attach("a.bin", b"\0" * 100_000, "application/octet-stream")
        mail.queue(large)
        EmailFile.objects.all().delete()
        File.objects.all().delete()
        drain("mailrail.mail")
        assert server.connections == 0
    assert Email.objects.get().status == Status.FAILED


@pytest.fixture
def storage(settings: Any, tmp_path: Path) -> Path:
    """Where large attachments are kept."""
    backend = "django.core.files.storage.FileSystemStorage"
    kept = {"BACKEND": backend, "OPTIONS": {"location": str(tmp_path)}}
    settings.STORAGES = {**settings.STORAGES, "mail": kept}
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_STORAGE": "mail"}
    return tmp_path


def large() -> EmailMessage:
    made = message()
    made.attach("a.bin", b"\0" * 100_000, "application/octet-stream")
    return made


def only_file(storage: Path) -> Path:
    [stored] = [each for each in storage.rglob("*") if each.is_file()]
    return stored


def test_a_storage_that_is_away_loses_nothing(queueing: Queueing, storage: Path) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        mail.queue_many([large(), message()])
        stored = only_file(storage)
        away = stored.rename(storage / "away")
        stored.mkdir()  # to open it is an IsADirectoryError
        drain("mailrail.mail")
        assert len(server.mails) == 1
        email = Email.objects.get(status=Status.QUEUED)
        assert email.attempts == 0 and email.events[-1]["what"] == "not sent"
        why = email.events[-1]["why"]
        assert "the attachment 'a.bin'" in why and "cannot be read just now: IsADirectoryError" in why
        stored.rmdir()
        away.rename(stored)
        advance(120)
        drain("mailrail.mail")
        assert len(server.mails) == 2


def test_a_storage_that_is_not_mounted_loses_nothing(queueing: Queueing, storage: Path) -> None:
    """It says that there is no such file."""
    with ScriptedServer() as server:
        queueing(server.port)
        mail.queue_many([large(), message()])
        stored = only_file(storage)
        away = stored.rename(storage / "away")
        for _ in range(3):
            drain("mailrail.mail")
            pass_time(60)
        assert len(server.mails) == 1
        email = Email.objects.get(status=Status.QUEUED)
        assert [event["what"] for event in email.events] == ["not sent"] * 3
        assert f"No such file or directory: '{stored}'" in email.events[-1]["why"]
        assert email.attempts == 0
        away.rename(stored)
        drain("mailrail.mail")
        assert len(server.mails) == 2 and not Email.objects.exclude(status=Status.SENT).exists()


@pytest.mark.parametrize("paused", [False, True], ids=["for its lifetime", "since its lifetime was over"])
def test_an_email_whose_file_stays_missing_fails(queueing: Queueing, storage: Path, paused: bool) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queued = mail.queue(large())
        only_file(storage).unlink()
        if not paused:
            drain("mailrail.mail")
        pass_time(4 * 24 * 3600)
        drain("mailrail.mail")
        queued.refresh_from_db()
        assert queued.status == (Status.QUEUED if paused else Status.FAILED)
        pass_time(60)
        drain("mailrail.mail")
        assert server.connections == 0
    queued.refresh_from_db()
    assert queued.status == Status.FAILED and "a file is missing" in queued.events[-1]["why"]
    assert sent("mailrail.mail") == []


def test_a_storage_that_the_settings_do_not_name_any_more_loses_nothing(
    queueing: Queueing, storage: Path, settings: Any
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        mail.queue(large())
        before = settings.MAILRAIL
        settings.MAILRAIL = {**before, "MAIL_STORAGE": None}
        drain("mailrail.mail")
        assert "MAILRAIL['MAIL_STORAGE'] names none" in Email.objects.get().events[-1]["why"]
        settings.MAILRAIL = before
        pass_time(60)
        drain("mailrail.mail")
        assert len(server.mails) == 1


@pytest.mark.parametrize("gone", ["from the storage", "from the table"])
def test_the_admin_names_the_file_that_is_gone(
    queueing: Queueing, storage: Path, admin_client: Any, gone: str
) -> None:
    queueing(1)
    email = mail.queue(large())
    stored = only_file(storage)
    stored.unlink()
    if gone == "from the table":
        EmailFile.objects.all().delete()
        File.objects.all().delete()
    page = f"/admin/mailrail_mail/email/{email.pk}/"
    shown = unescape(admin_client.get(f"{page}change/").content.decode())
    assert "It cannot be read" in shown and f"the attachment 'a.bin' (SHA-256 {stored.name})" in shown
    assert admin_client.get(f"{page}source/").status_code == 404
    drain("mailrail.mail")
    assert "the attachment 'a.bin'" in Email.objects.get().events[-1]["why"]


def test_what_was_not_sent_says_nothing_of_its_mailer(queueing: Queueing, storage: Path) -> None:
    """That is out, and would have been tried with this email."""
    queueing(1)
    mail.queue(large())
    drain("mailrail.mail")
    assert MailerState.objects.get().probes == 1
    only_file(storage).unlink()
    pass_time(60)
    drain("mailrail.mail")
    assert MailerState.objects.get().probes == 1
    assert Email.objects.get().events[-1]["what"] == "not sent"


def test_a_shared_attachment_is_stored_once(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)

        def with_file() -> EmailMessage:
            made = EmailMultiAlternatives("Hello", "Text", "me@example.com", ["you@example.com"])
            part = MIMEBase("application", "octet-stream")
            part.set_payload(b"\1" * 50_000)
            made.attach("a.bin", b"\0" * 100_000, "application/octet-stream")
            return made

        mail.queue_many(with_file() for _ in range(20))
        assert File.objects.count() == 1 and EmailFile.objects.count() == 20
        drain("mailrail.mail")
        assert len(server.mails) == 20


class Unbuildable(EmailMessage):
    """As of a project whose template is gone."""

    def message(self, **kwargs: Any) -> Any:
        raise LookupError("the template welcome.txt is gone")


def with_part(name: str, part: Any) -> Callable[[], EmailMessage]:
    """One that is put there past Django's own looks at it."""

    def make() -> EmailMessage:
        made = EmailMultiAlternatives("Hello", "A body.\n", "me@example.com", ["you@example.com"])
        made.attach_alternative("<p>A body.</p>", "text/html")
        made.attach("good.txt", "Good.", "text/plain")
        getattr(made, name).append(part)
        return made

    return make


def with_field(name: str, value: Any) -> Callable[[], EmailMessage]:
    def make() -> EmailMessage:
        made = message()
        setattr(made, name, value)
        return made

    return make


UNWRITABLE: dict[str, tuple[Callable[[], EmailMessage], str]] = {
    "a header's name": (lambda: message(headers={"X-Good": "a", 5: "x"}), "The header 5 cannot be written"),
    "an alternative that is a number": (
        with_part("alternatives", EmailAlternative(5, "text/html")),  # type: ignore[arg-type]
        r"alternatives\[1\]",
    ),
    "an alternative's type": (
        with_part("alternatives", EmailAlternative("x", "html")),
        r"alternatives\[1\] cannot",
    ),
    "half an alternative": (with_part("alternatives", ("x",)), r"alternatives\[1\] cannot be written"),
    "an attachment that is a number": (
        with_part("attachments", EmailAttachment("five.txt", 5, "text/plain")),  # type: ignore[arg-type]
        r"attachments\[1\] \(five.txt\) cannot be written",
    ),
    "an attachment that is a file": (
        with_part("attachments", EmailAttachment("a.bin", BytesIO(b"x"), "application/pdf")),  # type: ignore[arg-type]
        r"attachments\[1\]",
    ),
    "half an attachment": (with_part("attachments", "a.txt"), r"attachments\[1\] cannot be written"),
    "a charset": (with_field("encoding", "no-such"), "The email cannot be written: LookupError: .*no-such"),
}
if django.VERSION >= (6, 0):  # before, Django writes str() of a header and of a text
    late = EmailAttachment("late.txt", gettext_lazy("Late."), "text/plain")  # type: ignore[arg-type]
    UNWRITABLE |= {
        "a header that is a number": (
            lambda: message(headers={"X-Num": 123}),
            "The header 'X-Num' cannot be written",
        ),
        "a late alternative": (
            with_part("alternatives", EmailAlternative(gettext_lazy("x"), "text/html")),  # type: ignore[arg-type]
            r"alternatives\[1\]",
        ),
        "a late attachment": (
            with_part("attachments", late),
            r"attachments\[1\] \(late.txt\) cannot be written",
        ),
    }
else:
    UNWRITABLE["a body"] = with_field("body", 5), "The body cannot be written"


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_django_cannot_write_is_refused_by_its_name(queueing: Queueing, case: str) -> None:
    queueing(1)
    make, named = UNWRITABLE[case]
    with pytest.raises(CannotQueue, match=named) as raised:
        make().send()
    assert raised.value.__cause__ is not None
    assert not Email.objects.exists() and sent("mailrail.mail") == []


TEXTS: dict[str, tuple[Callable[[], EmailMessage], type[Exception], str]] = {
    "30 MB": (
        lambda: message(attachments=[("a.bin", b"\0" * 30_000_000, "application/octet-stream")]),
        EmailTooLarge,
        r"MAILRAIL\['MAIL_MAX_BYTES'\] allows 26,214,400. Send a link to the file instead, or raise the limit",
    ),
    "NUL": (
        lambda: message(attachments=[("a.eml", b"Subject: x\r\n\r\na\0b", "message/rfc822")]),
        CannotQueue,
        "has a NUL character, which SMTP cannot carry. Remove it",
    ),
    "no recipients": (lambda: message(to=[]), CannotQueue, "put at least one address into to, cc or bcc"),
    "an attribute": (
        own,
        CannotQueue,
        "template_context is a .*Unpicklable .* Give it as text, number, date",
    ),
    "a subclass": (
        lambda: Unbuildable("Hi", "x", "me@example.com", ["you@example.com"]),
        LookupError,
        "welcome.txt",
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_the_error_says_what_to_do(queueing: Queueing, case: str) -> None:
    queueing(1)
    make, error, said = TEXTS[case]
    with pytest.raises(error, match=said):
        mail.queue(make())
    assert not Email.objects.exists() and sent("mailrail.mail") == []


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\n\r", "\r\r\n"])
def test_bare_ends_of_lines_arrive_as_whole_ones(queueing: Queueing, end: str) -> None:
    """In a body they are no danger: nothing but CRLF leaves."""
    with ScriptedServer() as server:
        queueing(server.port)
        message(body=f"one{end}.{end}MAIL FROM:<x@example.com>{end}").send()
        drain("mailrail.mail")
        [arrived] = server.mails
    lines = arrived.content.count(b"\r\n")
    assert (arrived.content.count(b"\n"), arrived.content.count(b"\r")) == (lines, lines)


@pytest.mark.parametrize("offered", [True, False])
def test_an_address_of_any_script_is_sent_to_where_the_server_offers_smtputf8(
    queueing: Queueing, offered: bool
) -> None:
    extensions = ("8BITMIME", "SMTPUTF8") if offered else ("8BITMIME",)
    with ScriptedServer(extensions=extensions) as server:
        queueing(server.port)
        message(
            from_email="Jörg <jörg@example.com>", to=["Nø <nø@example.com>"], bcc=["ü@example.com"]
        ).send()
        message().send()
        drain("mailrail.mail")
        found = [(each.sender, each.recipients) for each in server.mails]
    first, second = Email.objects.order_by("pk")
    assert second.status == Status.SENT and sent("mailrail.mail") == []
    if not offered:
        assert first.status == Status.FAILED and "does not offer SMTPUTF8" in first.events[-1]["why"]
        assert "does not offer SMTPUTF8" in first.recipients[0]["text"] and len(found) == 1
        return
    assert found[0] == ("jörg@example.com", ("nø@example.com", "ü@example.com"))
    assert first.status == Status.SENT and "nø@example.com>\r\n".encode() in server.mails[0].content
    assert b" SMTPUTF8" in next(line for line in server.lines if line.startswith(b"MAIL"))


class Raw(EmailMessage):
    """Bytes that no encoding of text takes."""

    def message(self, **kwargs: Any) -> Any:
        return _RawBytes()


class _RawBytes:
    def as_bytes(self, *args: Any, **kwargs: Any) -> bytes:
        head = b"Subject: x\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: 8bit\r\n"
        return head + b"\r\n\xff\xfe\r\n"


def test_bytes_that_a_server_of_seven_bits_cannot_take_fail_with_the_reason(queueing: Queueing) -> None:
    with ScriptedServer(extensions=()) as server:
        queueing(server.port)
        Raw("Hi", "x", "me@example.com", ["you@example.com"]).send()
        drain("mailrail.mail")
        assert server.mails == []
    email = Email.objects.get()
    assert email.status == Status.FAILED and "does not offer 8BITMIME" in email.events[-1]["why"]


@pytest.mark.parametrize("send", [lambda: message().send(), lambda: mail.queue(message())])
def test_in_an_event_loop_it_is_said_what_to_await(queueing: Queueing, send: Callable[[], Any]) -> None:
    queueing(1)

    async def view() -> None:
        send()

    with pytest.raises(SynchronousOnlyOperation) as refused:
        asyncio.run(view())
    [note] = refused.value.__notes__
    assert "await mail.aqueue" in note and "sync_to_async(send_mail)" in note


class OfAProject(smtp.EmailBackend):
    """We do not look into it: it speaks by smtplib."""


@pytest.mark.parametrize("lacking", ["server", "ssl_certfile"])
def test_an_error_of_another_smtp_backend_names_what_it_is_about(
    queueing: Queueing, tmp_path: Path, lacking: str
) -> None:
    missing = str(tmp_path / "missing.pem")
    with ScriptedServer() as server:
        pass  # nobody listens any more
    with ScriptedServer(extensions=("STARTTLS",)) as listening:
        port = server.port if lacking == "server" else listening.port
        more = {} if lacking == "server" else {"use_tls": True, "ssl_certfile": missing}
        queueing(port, f"{__name__}.OfAProject", **more)
        mail.queue(message())
        work()
    reason = MailerState.objects.get().reason
    named = f"ssl_certfile '{missing}'" if lacking == "ssl_certfile" else "ConnectionRefusedError"
    assert f"127.0.0.1:{port}" in reason and named in reason
