"""Real Anymail, and other backends of Django's API, as what delivers: from ``send()`` through the queue to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import django
import pytest
from anymail.exceptions import AnymailAPIError
from anymail.message import AnymailMessage, AnymailRecipientStatus, attach_inline_image
from django.core import mail as djangos
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import console, locmem, smtp
from django.utils.translation import gettext_lazy

from mailrail import mail
from mailrail.mail import CannotQueue, Email, EmailTooLarge, Status
from mailrail.mail.models import MailerState, Suppression
from mailrail.testing import advance, drain

from ..smtp_server import Fault, ScriptedServer

pytestmark = pytest.mark.django_db(transaction=True)

Queueing = Callable[..., None]
ANYMAIL = "anymail.backends.test.EmailBackend"
ATTRIBUTES: dict[str, Any] = {
    "envelope_sender": "bounces@example.com",
    "metadata": {"order": 7, "when": datetime(2026, 11, 24, tzinfo=UTC)},
    "send_at": datetime(2026, 11, 25, 8, 30, tzinfo=UTC),
    "tags": ["receipt", "größe"],
    "track_clicks": False,
    "track_opens": True,
    "template_id": "receipt-2",
    "merge_data": {"ann@example.com": {"name": "Ann"}, "bob@example.com": {"name": "Bob"}},
    "merge_headers": {"ann@example.com": {"X-Own": "1"}},
    "merge_metadata": {"ann@example.com": {"cart": 1}},
    "merge_global_data": {"site": "example.com"},
}
EXTRA = {"IpPool": "high", "nested": [{"deep": None}], "batch": True}


def only() -> Email:
    return Email.objects.get()


def deliver() -> None:
    drain("mailrail.mail")


def told_to_the_service() -> dict[str, Any]:
    """Of the one email that came there."""
    [taken] = djangos.outbox
    payload: dict[str, Any] = vars(taken)["anymail_test_params"]
    return payload


def with_everything(kind: type[EmailMessage]) -> EmailMessage:
    message = kind("Hi", "Text.", "Me <me@example.com>", ["Ann <ann@example.com>", "bob@example.com"])
    for name, value in {**ATTRIBUTES, "esp_extra": EXTRA}.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize("kind", [EmailMessage, AnymailMessage])
def test_everything_that_anymail_knows_comes_to_its_service(
    queueing: Queueing, kind: type[EmailMessage]
) -> None:
    queueing(0, ANYMAIL)
    assert with_everything(kind).send() == 1
    deliver()
    payload = told_to_the_service()
    assert {name: payload[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert {name: payload[name] for name in EXTRA} == EXTRA
    assert [str(each) for each in payload["to"]] == ["Ann <ann@example.com>", "bob@example.com"]
    assert payload["is_batch_send"] and payload["text_body"] == "Text."
    assert "extra_headers" not in payload  # Message-ID and Date are the service's
    assert only().status == Status.SENT and [each["status"] for each in only().recipients] == ["sent", "sent"]
    assert only().recipients[0]["text"] == f"taken by {ANYMAIL} as 0"
    assert only().events[-1]["stage"] == "backend", "a service knows nothing of the stages of SMTP"


def test_bodies_and_files_come_to_the_service(queueing: Queueing) -> None:
    queueing(0, ANYMAIL)
    message = AnymailMessage(
        "Grüße", "Text ✓", "me@example.com", ["you@exämple.com"], cc=["c@example.com"], bcc=["b@example.com"],
        reply_to=["r@example.com"], headers={"X-Own": "1", "Message-ID": "<own@example.com>"},
    )  # fmt: skip
    message.attach_alternative("<p>HTML ✓</p>", "text/html")
    message.attach("a.bin", b"\0\1" * 50_000, "application/octet-stream")
    cid = attach_inline_image(message, b"\x89PNG\r\n\x1a\n", "logo.png", subtype="png")
    message.send()
    deliver()
    payload = told_to_the_service()
    assert (payload["subject"], payload["text_body"], payload["html_body"]) == (
        "Grüße",
        "Text ✓",
        "<p>HTML ✓</p>",
    )
    assert dict(payload["extra_headers"]) == {"X-Own": "1", "Message-ID": "<own@example.com>"}
    assert [payload[name][0].addr_spec for name in ("cc", "bcc", "reply_to")] == [
        "c@example.com",
        "b@example.com",
        "r@example.com",
    ]
    file, image = payload["attachments"]
    assert (file.name, file.content, file.mimetype) == ("a.bin", b"\0\1" * 50_000, "application/octet-stream")
    assert (image.inline, image.cid, image.content[:4]) == (True, cid, b"\x89PNG")


def test_a_class_that_writes_its_own_message_keeps_what_anymail_knows(queueing: Queueing) -> None:
    class Signed(EmailMessage):
        def message(self, **kwargs: Any) -> Any:
            made = super().message(**kwargs)
            made["X-Signature"] = "abc"
            return made

    queueing(0, ANYMAIL)
    with_everything(Signed).send()
    deliver()
    payload = told_to_the_service()
    assert {name: payload[name] for name in ATTRIBUTES} == ATTRIBUTES


class WritesItself(EmailMultiAlternatives):
    """Nobody asks it to, where a service has an API."""

    def message(self, **kwargs: Any) -> Any:
        raise LookupError("no certificate to sign with")


def as_anymail_takes_it(
    kind: type[EmailMultiAlternatives] = EmailMultiAlternatives,
) -> EmailMultiAlternatives:
    """Django cannot write any of this from 6.0 on, nor all of it before."""
    message = kind(
        gettext_lazy("Subject"), gettext_lazy("Text."), "me@example.com", ["you@example.com"],
        headers={"X-Num": 123, gettext_lazy("X-Late"): gettext_lazy("late"), "X-Ratio": 0.5},  # type: ignore[dict-item]
    )  # fmt: skip
    message.attach_alternative(gettext_lazy("<p>HTML</p>"), "text/html")  # type: ignore[arg-type]
    message.attach(gettext_lazy("late.txt"), gettext_lazy("In a file."), "text/plain")  # type: ignore[call-overload]
    message.attach("late.bin", gettext_lazy("As bytes."), "application/octet-stream")  # type: ignore[call-overload]
    return message


@pytest.mark.parametrize("kind", [EmailMultiAlternatives, WritesItself])
def test_what_django_cannot_write_comes_to_the_service_as_without_a_queue(
    queueing: Queueing, kind: type[EmailMultiAlternatives]
) -> None:
    direct = djangos_anymail()
    direct.send_messages([as_anymail_takes_it(kind)])
    wanted = comparable(told_to_the_service())
    djangos.outbox.clear()
    queueing(0, ANYMAIL)
    as_anymail_takes_it(kind).send()
    assert only().size > len("Text.<p>HTML</p>In a file.As bytes.")
    deliver()
    assert comparable(told_to_the_service()) == wanted
    assert wanted["extra_headers"] == {"X-Num": 123, "X-Late": "late", "X-Ratio": 0.5}
    assert (wanted["text_body"], wanted["html_body"]) == ("Text.", "<p>HTML</p>")


def djangos_anymail() -> Any:
    from anymail.backends.test import EmailBackend

    return EmailBackend(**({"alias": None} if django.VERSION >= (6, 1) else {}))


def comparable(told: dict[str, Any]) -> dict[str, Any]:
    plain = {name: told[name] for name in ("subject", "text_body", "html_body")}
    files = [(each.name, each.content, each.mimetype) for each in told["attachments"]]
    return {**plain, "extra_headers": dict(told["extra_headers"]), "attachments": files}


def test_a_sender_and_a_subject_may_be_left_to_the_template_of_the_service(queueing: Queueing) -> None:
    queueing(0, ANYMAIL)
    message = AnymailMessage(to=["you@example.com"])
    message.template_id, message.from_email, message.subject, message.body = "welcome", None, None, None
    message.send()
    deliver()
    payload = told_to_the_service()
    assert payload["template_id"] == "welcome" and payload.get("from") is None
    assert (only().status, only().sender, only().subject) == (Status.SENT, "", "")


def test_two_authors_are_the_matter_of_the_service(queueing: Queueing) -> None:
    queueing(0, ANYMAIL)
    EmailMessage("Hi", "Text.", "Ann <a@example.com>, b@example.com", ["you@example.com"]).send()
    deliver()
    assert "Test does not support multiple from emails" in only().events[-1]["text"]  # others do


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "a\r\nBcc: x@example.com"},
        {"headers": {"X-A": "a\nB: c"}},
        {"headers": {"X-A\r\nB": "c"}},
        {"reply_to": ["a@example.com\nBcc: x@example.com"]},
    ],
    ids=repr,
)
def test_what_would_begin_another_header_is_refused_though_nobody_writes_headers(
    queueing: Queueing, fields: dict[str, Any]
) -> None:
    queueing(0, ANYMAIL)
    with pytest.raises(CannotQueue, match="has a newline"):
        EmailMessage(**{"from_email": "me@example.com", "to": ["you@example.com"], **fields}).send()
    assert not Email.objects.exists()


def test_an_email_too_large_for_the_setting_is_refused_though_nobody_writes_it(
    queueing: Queueing, settings: Any
) -> None:
    queueing(0, ANYMAIL)
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_MAX_BYTES": 100_000}
    message = EmailMessage("Hi", "Text.", "me@example.com", ["you@example.com"])
    message.attach("a.bin", b"\0" * 80_000, "application/octet-stream")  # in Base64, a third more
    with pytest.raises(EmailTooLarge, match="106,"):
        message.send()


class ByFields:
    """A service of the project's own: it takes fields, and no bytes."""

    taken: ClassVar[list[EmailMessage]] = []

    def __init__(self, **kwargs: Any) -> None:
        pass

    def open(self) -> None: ...

    def close(self) -> None: ...

    def send_messages(self, messages: list[EmailMessage]) -> int:
        self.taken.extend(messages)
        return len(messages)


OWN = f"{__name__}.ByFields"


def test_another_backend_that_writes_no_bytes_is_named_by_a_setting(
    queueing: Queueing, policy: Callable[..., None]
) -> None:
    queueing(0, OWN)
    with pytest.raises(CannotQueue):
        mail.queue(as_anymail_takes_it())
    policy(COMPOSES=False)
    as_anymail_takes_it().send()
    deliver()
    taken = ByFields.taken.pop()
    assert taken.extra_headers["X-Num"] == 123 and "Message-ID" not in taken.extra_headers


def test_what_may_leave_by_smtp_instead_has_to_be_written(
    queueing: Queueing, policy: Callable[..., None], second: Callable[..., None]
) -> None:
    queueing(0, ANYMAIL)
    second("backup", 25)
    policy(FAILOVER=["backup"])
    with pytest.raises(CannotQueue):
        mail.queue(as_anymail_takes_it())


@pytest.mark.parametrize("stands_in", [False, True], ids=["settings have changed", "it stands in"])
def test_finished_bytes_are_never_an_empty_email_of_a_service(
    queueing: Queueing, policy: Callable[..., None], second: Callable[..., None], stands_in: bool
) -> None:
    """They have no fields but their envelope."""

    class Signed(EmailMessage):
        def message(self, **kwargs: Any) -> Any:
            made = super().message(**kwargs)
            made["X-Signature"] = "abc"
            return made

    queueing(1)
    if stands_in:
        second("service", 0, ANYMAIL)
        policy(FAILOVER=["service"])
    Signed("Hi", "Text.", "me@example.com", ["you@example.com"]).send()
    if not stands_in:
        queueing(0, ANYMAIL)
    deliver()
    assert not getattr(djangos, "outbox", [])
    assert only().status == (Status.QUEUED if stands_in else Status.FAILED)
    assert "does not take bytes" in only().events[-1]["why"]


def test_the_admin_shows_what_django_cannot_write(queueing: Queueing, admin_client: Any) -> None:
    queueing(0, ANYMAIL)
    as_anymail_takes_it().send()
    page = admin_client.get(f"/admin/mailrail_mail/email/{only().pk}/change/").content.decode()
    assert "X-Num" in page and "123" in page and "late.txt" in page and "cannot be read" not in page


class Service:
    """What Anymail's service answers; its backend for tests looks for it at the message."""

    def __init__(self, **statuses: str) -> None:
        self.statuses = {
            f"{name}@example.com": AnymailRecipientStatus("id", how) for name, how in statuses.items()
        }
        self.error: Exception | None = None

    def __call__(self, sender: Any, message: Any, **kwargs: Any) -> None:
        message.anymail_test_response = self.error or {"recipient_status": self.statuses}


@pytest.fixture
def service() -> Any:
    from anymail.signals import pre_send

    answering: list[Service] = []

    def answer(**statuses: str) -> Service:
        answering.append(Service(**statuses))
        pre_send.connect(answering[-1])
        return answering[-1]

    yield answer
    for each in answering:
        pre_send.disconnect(each)


@pytest.mark.parametrize(
    ("statuses", "status", "recipients"),
    [
        ({"ann": "sent", "bob": "rejected"}, "partial", ["sent", "failed"]),
        ({"ann": "queued", "bob": "unknown"}, "sent", ["sent", "sent"]),
        ({"ann": "sent", "bob": "failed"}, "queued", ["sent", "queued"]),
        ({"ann": "invalid", "bob": "rejected"}, "failed", ["failed", "failed"]),
    ],
)
def test_what_the_service_says_of_each_recipient_is_recorded(
    queueing: Queueing, service: Any, statuses: dict[str, str], status: str, recipients: list[str]
) -> None:
    queueing(0, ANYMAIL)
    service(**statuses)
    EmailMessage("Hi", "Text.", "me@example.com", ["Ann <Ann@example.com>", "bob@example.com"]).send()
    deliver()
    assert (only().status, [each["status"] for each in only().recipients]) == (status, recipients)
    assert not Suppression.objects.exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AnymailAPIError("the quota is used up"), "AnymailAPIError: the quota is used up"),
        (AnymailAPIError("an error without an answer cannot be printed", status_code=429), "AnymailAPIError"),
    ],
)
def test_an_error_of_the_service_is_tried_again_and_says_why(
    queueing: Queueing, service: Any, error: Exception, said: str
) -> None:
    queueing(0, ANYMAIL)
    service().error = error
    EmailMessage("Hi", "Text.", "me@example.com", ["ann@example.com"]).send()
    deliver()
    assert (only().status, only().attempts) == (Status.QUEUED, 1)
    assert only().events[-1]["text"] == said


# -- Django's own, and one of a project's -----------------------------------------------------------------------------


class OfAProject(locmem.EmailBackend):
    """As projects write them: on top of one of Django's."""

    def send_messages(self, messages: Any) -> int:
        for message in messages:
            message.subject = f"[staging] {message.subject}"
        return super().send_messages(messages)


class ToAFile(console.EmailBackend):
    """The console backend, with a screen of its own."""

    screen = StringIO()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream=ToAFile.screen, **kwargs)


BACKENDS = {
    "locmem": "django.core.mail.backends.locmem.EmailBackend",
    "a project's": f"{__name__}.OfAProject",
    "console": f"{__name__}.ToAFile",
    "file": "django.core.mail.backends.filebased.EmailBackend",
    "dummy": "django.core.mail.backends.dummy.EmailBackend",
}


@pytest.mark.parametrize("name", BACKENDS)
def test_any_backend_delivers_the_email_as_it_was_queued(
    queueing: Queueing, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ToAFile, "screen", screen := StringIO())
    options = {"file_path": str(tmp_path)} if name == "file" and django.VERSION >= (6, 1) else {}
    if name == "file" and not options:
        settings.EMAIL_FILE_PATH = str(tmp_path)
    queueing(0, BACKENDS[name], **options)
    EmailMessage("Hello", "Käse", "me@example.com", ["you@example.com"], headers={"X-Own": "1"}).send()
    deliver()
    assert only().status == Status.SENT and only().attempts == 1
    if name == "dummy":
        return
    texts = [screen.getvalue()] if name == "console" else []
    texts += [each.read_text() for each in tmp_path.iterdir()] + [
        str(each.message()) for each in djangos.outbox
    ]
    assert len(texts) == 1
    for part in (f"Message-ID: {only().message_id}", "X-Own: 1", "Hello"):
        assert part in texts[0]
    assert ("[staging] Hello" in texts[0]) is (name == "a project's")


class OfAProjectBySmtp(smtp.EmailBackend):
    """Not exactly Django's, so it is called as it is."""


BY_SMTP = f"{__name__}.OfAProjectBySmtp"


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        (Fault("DOT", "accept-disconnect"), 2),
        (Fault("MAIL", "421 4.3.2 bye"), 1),
        (Fault("RCPT", "disconnect"), 1),
        (Fault("DOT", "451 4.3.0 later"), 1),
    ],
    ids=lambda value: str(value),
)
def test_smtplib_that_lost_its_connection_gets_another_and_the_other_emails_go_on(
    queueing: Queueing, fault: Fault, first: int
) -> None:
    """``first``: copies of the one at which it broke."""
    with ScriptedServer([fault]) as server:
        queueing(server.port, BY_SMTP)
        for n in range(3):
            EmailMessage("Hi", "Text.", "me@example.com", [f"to{n}@example.com"]).send()
        deliver()
        _, *others = Email.objects.order_by("pk")
        assert [(each.status, len(each.events)) for each in others] == [(Status.SENT, 1)] * 2
        advance(200)
        deliver()
        copies = [each.recipients[0] for each in server.mails]
    assert {name: copies.count(f"{name}@example.com") for name in ("to0", "to1", "to2")} == {
        "to0": first,
        "to1": 1,
        "to2": 1,
    }
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT}


def test_an_address_that_smtplib_cannot_tell_the_server_fails_with_the_reason(
    queueing: Queueing,
) -> None:
    """Django 5.2 makes another address of it, Django 6 refuses it."""
    with ScriptedServer() as server:
        queueing(server.port, BY_SMTP)
        EmailMessage("Hi", "Text.", "me@example.com", ["nø@example.com"]).send()
        deliver()
        if django.VERSION >= (6, 0):
            assert server.mails == [] and "non-ASCII" in str(only().events)
        else:
            assert [each.recipients for each in server.mails] == [("=?utf-8?b?bsO4?=@example.com",)]


def test_what_smtplib_was_told_is_understood_as_from_our_own_client(queueing: Queueing) -> None:
    refused = {
        "gone@example.com": "550 5.1.1 no such user",
        "full@example.com": "552 5.2.2 mailbox full",
        "spam@example.com": "550 5.7.1 not wanted",
    }
    faults = [Fault("MAIL", "550 5.1.1 no such sender", 3)]
    with ScriptedServer(faults, refused=refused) as server:
        queueing(server.port, BY_SMTP)
        for name in (*refused, "you@example.com"):
            EmailMessage("Hi", "Text.", "me@example.com", [name]).send()
            deliver()
    emails = {each.recipients[0]["address"]: each for each in Email.objects.all()}
    assert {name: (each.status, each.recipients[0]["enhanced"]) for name, each in emails.items()} == {
        "gone@example.com": (Status.FAILED, "5.1.1"),
        "full@example.com": (Status.QUEUED, "5.2.2"),
        "spam@example.com": (Status.FAILED, "5.7.1"),
        "you@example.com": (Status.HELD, "5.1.1"),  # that was about the sender
    }
    assert [each.address for each in Suppression.objects.all()] == ["gone@example.com"]


def test_a_recipient_that_smtplib_did_not_come_to_is_not_refused(queueing: Queueing) -> None:
    """It stops at 421, and names those that were refused before."""
    faults = [Fault("RCPT", "421 4.7.0 Too many errors", 1)]
    with ScriptedServer(faults, refused={"gone@example.com": "550 5.1.1 no such user"}) as server:
        queueing(server.port, BY_SMTP)
        names = ["gone", "a", "b", "c"]
        EmailMessage("Hi", "Text.", "me@example.com", [f"{name}@example.com" for name in names]).send()
        deliver()
        assert [each["status"] for each in only().recipients] == ["failed", "queued", "queued", "queued"]
        assert [each.address for each in Suppression.objects.all()] == ["gone@example.com"]
        advance(60)
        deliver()
        assert [each.recipients for each in server.mails] == [
            ("a@example.com", "b@example.com", "c@example.com")
        ]
    assert only().status == Status.PARTIAL


def test_whom_smtplib_told_the_server_in_another_form_has_the_reply_to_it(queueing: Queueing) -> None:
    refused = {"gone@xn--bcher-kva.example": "550 5.1.1 no such user", "b@example.com": "450 4.2.0 later"}
    with ScriptedServer(refused=refused) as server:
        queueing(server.port, BY_SMTP)
        EmailMessage("Hi", "Text.", "me@example.com", ["B <b@example.com>", "gone@bücher.example"]).send()
        deliver()
    assert [each["code"] for each in only().recipients] == [450, 550]
    assert [each.address for each in Suppression.objects.all()] == ["gone@xn--bcher-kva.example"]


# -- no answer of a service -------------------------------------------------------------------------------------------


class Mute:
    """Takes requests, and closes the connection, or says nothing, in the place of an answer or of its rest."""

    def __init__(self, silent: bool, begun: bytes = b"") -> None:
        self.requests: list[bytes] = []
        self._silent = silent
        self._begun = begun
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Mute:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(20)
        for each in self._open:
            each.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._open.append(client)
                self.requests.append(_request(client))
                client.sendall(self._begun)
                if not self._silent:
                    client.shutdown(socket.SHUT_RDWR)


def _request(client: socket.socket) -> bytes:
    """Up to the end of its JSON."""
    request = b""
    while not request.endswith(b"}") and (more := client.recv(65536)):
        request += more
    return request


@pytest.fixture
def postmark(settings: Any, queueing: Queueing) -> Callable[[str], None]:
    def use(url: str) -> None:
        settings.ANYMAIL = {
            "POSTMARK_SERVER_TOKEN": "x",
            "POSTMARK_API_URL": url,
            "REQUESTS_TIMEOUT": (20, 0.3),
        }
        queueing(0, "anymail.backends.postmark.EmailBackend")

    return use


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"no answer\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
    ],
)
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("decided", ["resend", "hold"])
def test_an_answer_of_the_service_that_does_not_come_is_a_doubt(
    postmark: Callable[[str], None], settings: Any, silent: bool, decided: str, begun: bytes
) -> None:
    """It may have been sent: no other mailer may send it, and the setting decides."""
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_ON_AMBIGUOUS": decided}
    with Mute(silent, begun) as there:
        postmark(there.url)
        AnymailMessage("Hi", "Text.", "me@example.com", ["you@example.com"]).send()
        deliver()
        assert len(there.requests) == 1 and b"you@example.com" in there.requests[0]
    assert only().recipients[0]["ambiguous"] and only().attempts == 0
    assert only().status == (Status.QUEUED if decided == "resend" else Status.HELD)
    assert not MailerState.objects.exists()


def test_a_refusal_in_an_answer_of_status_200_is_no_doubt(queueing: Queueing, settings: Any) -> None:
    answer = b'{"status": "error", "data": {"code": "NoContent"}}'
    with Mute(False, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)) as there:
        settings.ANYMAIL = {"POSTAL_API_KEY": "x", "POSTAL_API_URL": there.url}
        queueing(0, "anymail.backends.postal.EmailBackend")
        AnymailMessage("Hi", "Text.", "me@example.com", ["you@example.com"]).send()
        deliver()
    assert "ambiguous" not in only().recipients[0] and only().attempts == 1


def test_a_service_that_is_not_there_is_an_outage(postmark: Callable[[str], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    postmark(url)
    AnymailMessage("Hi", "Text.", "me@example.com", ["you@example.com"]).send()
    deliver()
    assert (only().status, only().attempts) == (Status.QUEUED, 0)
    assert "ambiguous" not in only().recipients[0]
    assert "Connection refused" in MailerState.objects.get().reason
