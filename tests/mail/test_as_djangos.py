"""What Django's own tests ask of an email backend, asked of ours: of the queue, and of the one with a pool.

Each behaviour is tried by both ways, and what counts is what a server has got.
"""

from __future__ import annotations

import email
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage as Letter
from email.utils import parsedate_to_datetime
from io import StringIO
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import User
from django.core import mail as djangos
from django.core.mail import (
    DNS_NAME,
    EmailAlternative,
    EmailAttachment,
    EmailMessage,
    EmailMultiAlternatives,
    mail_admins,
    mail_managers,
    send_mail,
    send_mass_mail,
)
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.utils.translation import gettext_lazy, override

from mailrail.mail import CannotQueue, Email, Status, queue
from mailrail.mail.smtp import close_pools
from mailrail.testing import drain

from ..ports import free_port
from ..smtp_server import Mail, ScriptedServer

pytestmark = pytest.mark.django_db(transaction=True)

HAS_MAILERS = django.VERSION >= (6, 1)
QUEUE, POOL = "mailrail.mail.backend.EmailBackend", "mailrail.mail.smtp.EmailBackend"
ME, YOU = "me@example.com", "you@example.com"


class Way:
    """A project whose email goes to ``server`` by one of our backends."""

    def __init__(self, name: str, settings: Any, server: ScriptedServer) -> None:
        self.name = name
        self.server = server
        self._settings = settings
        self.use()

    def use(self, **options: Any) -> None:
        """``options``: of the mailer that delivers, as Django 6.1 spells them."""
        settings = self._settings
        backend = QUEUE if self.name == "queue" else POOL
        own = {"host": "127.0.0.1", "port": self.server.port, **options}
        if not HAS_MAILERS:
            settings.EMAIL_BACKEND = backend
            settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": POOL}
            for name, value in own.items():
                name = {"username": "host_user", "password": "host_password"}.get(name, name)
                setattr(settings, f"EMAIL_{name.upper()}", value)
            return
        out = {"BACKEND": POOL, "OPTIONS": own}
        queueing = {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "out"}}
        settings.MAILERS = {"default": queueing if self.name == "queue" else out, "out": out}

    def backend(self, **options: Any) -> Any:
        """What ``send_mail`` would use."""
        return djangos.mailers.default if HAS_MAILERS else djangos.get_connection(**options)

    @property
    def mails(self) -> list[Mail]:
        """What has arrived, once the worker has done its work."""
        if self.name == "queue":
            drain("mailrail.mail")
        return self.server.mails

    @property
    def letters(self) -> list[Letter]:
        contents = [each.content.replace(b"\r\n", b"\n") for each in self.mails]
        return [email.message_from_bytes(each, policy=policy.default) for each in contents]

    def letter(self) -> Letter:
        [letter] = self.letters
        return letter


@pytest.fixture(params=["queue", "pool"])
def way(request: pytest.FixtureRequest, settings: Any) -> Iterator[Way]:
    with ScriptedServer() as server:
        yield Way(request.param, settings, server)
        close_pools()


def message(**more: Any) -> EmailMessage:
    return EmailMessage(**{"subject": "Hi", "body": "Text.\n", "from_email": ME, "to": [YOU], **more})


# -- the functions of django.core.mail --------------------------------------------------------------------------------


def test_send_mail_says_how_many(way: Way) -> None:
    assert send_mail("Hi", "Text.", None, [YOU], html_message="<p>Text.</p>") == 1
    assert send_mail("Hi", "Text.", ME, []) == 0
    letter = way.letter()
    assert letter["From"] == "Invites <invites@example.com>"  # DEFAULT_FROM_EMAIL
    assert [part.get_content_type() for part in letter.iter_parts()] == ["text/plain", "text/html"]


def test_send_mass_mail_says_how_many_and_leaves_out_who_has_no_recipients(way: Way) -> None:
    data = [("One", "1", ME, [YOU]), ("None", "0", ME, []), ("Two", "2", ME, [YOU, "b@example.com"])]
    assert send_mass_mail(data) == 2
    assert send_mass_mail([]) == 0
    assert [letter["Subject"] for letter in way.letters] == ["One", "Two"]


@pytest.mark.parametrize("send", [mail_admins, mail_managers])
def test_mail_to_those_in_charge(way: Way, settings: Any, send: Callable[..., None]) -> None:
    settings.ADMINS = settings.MANAGERS = []
    send("Nobody", "listens")
    addresses = ["a@example.com", "b@example.com"]
    settings.ADMINS = settings.MANAGERS = addresses if HAS_MAILERS else [("Name", each) for each in addresses]
    settings.EMAIL_SUBJECT_PREFIX, settings.SERVER_EMAIL = "[site] ", "root@example.com"
    send("Look", "Text.", html_message="<p>")
    [arrived], letter = way.mails, way.letter()
    assert (arrived.sender, arrived.recipients) == ("root@example.com", tuple(addresses))
    assert letter["Subject"] == "[site] Look" and letter.get_content_type() == "multipart/alternative"


def test_what_django_itself_sends(way: Way) -> None:
    call_command("sendtestemail", YOU, stdout=StringIO())
    User.objects.create_user("somebody", "somebody@example.com", "secret word")
    form = PasswordResetForm({"email": "somebody@example.com"})
    assert form.is_valid()
    form.save(domain_override="example.com", email_template_name="registration/password_reset_email.html")
    assert [each.recipients for each in way.mails] == [(YOU,), ("somebody@example.com",)]


# -- a backend object -------------------------------------------------------------------------------------------------


def test_it_is_opened_closed_and_used_in_a_with_block(way: Way) -> None:
    used = way.backend()
    used.close()  # although it was never opened
    with used as entered:
        assert entered is used
        assert used.send_messages([message(), message()]) == 2
        assert used.send_messages(iter([message()])) == 1
    used.close()
    used.open()
    assert used.send_messages([message()]) == 1
    used.close()
    assert len(way.mails) == 4


def test_nothing_to_send_is_no_work(way: Way) -> None:
    used = way.backend()
    assert used.send_messages([]) == 0
    assert message(to=[]).send() == 0
    assert used.send_messages([message(to=[]), message(to=[""], cc=[], bcc=[""])]) == 0
    assert way.mails == [] and not Email.objects.exists()


def test_empty_recipients_are_left_out(way: Way) -> None:
    made = message(to=["", YOU, ""], cc=[""], bcc=("b@example.com", ""), reply_to=["", "r@example.com"])
    assert made.send() == 1
    [arrived], letter = way.mails, way.letter()
    assert arrived.recipients == (YOU, "b@example.com")
    assert letter["To"] == YOU and not letter["Cc"] and letter["Reply-To"] == "r@example.com"


def test_a_message_of_its_own_backend_goes_by_that(way: Way, settings: Any) -> None:
    """``connection=``, or ``using=``, is stronger than the default."""
    elsewhere = "django.core.mail.backends.dummy.EmailBackend"
    if HAS_MAILERS:
        settings.MAILERS = {
            **settings.MAILERS,
            "first": settings.MAILERS["default"],
            "default": {"BACKEND": elsewhere},
        }
        assert message().send(using="first") == 1
        assert send_mail("Hi", "Text.", ME, [YOU], using="first") == 1
        assert send_mass_mail([("Hi", "Text.", ME, [YOU])], using="first") == 1
        assert djangos.mailers["first"].send_messages([message()]) == 1
        assert "first" in djangos.mailers and vars(djangos.mailers["first"])["alias"] == "first"
        with pytest.raises(djangos.MailerDoesNotExist):
            message().send(using="nowhere")
    else:
        used = djangos.get_connection()
        settings.EMAIL_BACKEND = elsewhere
        assert message(connection=used).send() == 1
        assert send_mail("Hi", "Text.", ME, [YOU], connection=used) == 1
        assert send_mass_mail([("Hi", "Text.", ME, [YOU])], connection=used) == 1
        assert used.send_messages([message()]) == 1
    assert len(way.mails) == 4


def test_a_backend_by_its_path(way: Way) -> None:
    if HAS_MAILERS:
        pytest.skip("from 6.1 on, MAILERS says which backend there is")
    path = QUEUE if way.name == "queue" else POOL
    assert (
        djangos.get_connection(path, fail_silently=True, unknown="is ignored").send_messages([message()]) == 1
    )
    assert len(way.mails) == 1


@pytest.mark.skipif(not HAS_MAILERS, reason="MAILERS came with Django 6.1")
def test_an_option_that_nobody_knows_is_named(way: Way, settings: Any) -> None:
    options = {**settings.MAILERS["default"]["OPTIONS"], "deliver_wiht": "out"}
    settings.MAILERS = {**settings.MAILERS, "default": {**settings.MAILERS["default"], "OPTIONS": options}}
    with pytest.raises(djangos.InvalidMailer, match=r"MAILERS\['default'\]: Unknown options 'deliver_wiht'"):
        message().send()


@pytest.mark.skipif(not HAS_MAILERS, reason="warns since Django 6.1")
@pytest.mark.filterwarnings("ignore:The EMAIL_", "error:Directly creating", "error:.*does not support")
def test_settings_from_before_mailers_warn_of_themselves_and_of_nothing_else(way: Way, settings: Any) -> None:
    """Django says that they are deprecated; that we read them is no news."""
    del settings.MAILERS
    settings.EMAIL_BACKEND = QUEUE if way.name == "queue" else POOL
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", way.server.port
    assert message().send() == 1
    assert len(way.mails) == 1


# -- a server or a login of the caller's own --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The 'auth_user'", "ignore:get_connection", "ignore:Directly creating")
def test_a_login_of_the_caller_is_used_by_the_pool_and_refused_by_the_queue(way: Way) -> None:
    login: Any = {"auth_user": "somebody", "auth_password": "secret"}
    if way.name == "pool":
        with pytest.raises(smtplib.SMTPNotSupportedError):  # it wants to log in, and this server has no AUTH
            send_mail("Hi", "Text.", ME, [YOU], **login)
        return
    where = r"MAILERS\['out'\]" if HAS_MAILERS else "the EMAIL_… settings"
    for send in (
        lambda: send_mail("Hi", "Text.", ME, [YOU], **login),
        lambda: send_mass_mail([("Hi", "Text.", ME, [YOU])], **login),
        lambda: djangos.get_connection(username="somebody", password="secret"),
    ):
        with pytest.raises(
            TypeError, match=f"username, password cannot be given .* what {where} says. Set it there"
        ):
            send()
    with pytest.raises(TypeError, match="host cannot be given"):
        djangos.get_connection(host="elsewhere.example.com")
    assert not Email.objects.exists()


# -- failing silently -------------------------------------------------------------------------------------------------


def _silent(settings: Any) -> Any:
    if not HAS_MAILERS:
        return djangos.get_connection(fail_silently=True)
    options = {**settings.MAILERS["default"]["OPTIONS"], "fail_silently": True}
    settings.MAILERS = {**settings.MAILERS, "default": {**settings.MAILERS["default"], "OPTIONS": options}}
    return djangos.mailers.default


def test_an_outage_is_raised_or_passed_over_in_silence(way: Way, settings: Any) -> None:
    """Of the queue that is its database, of the pool its server."""
    way.use(port=free_port())
    used, silent = way.backend(), _silent(settings)
    if way.name == "pool":
        with pytest.raises(ConnectionRefusedError):
            used.send_messages([message()])
        assert silent.send_messages([message()]) == 0 and silent.open() is None
    else:
        with connection.schema_editor() as editor:
            editor.alter_db_table(Email, "mailrail_mail_email", "mislaid")
        with pytest.raises(DatabaseError):
            used.send_messages([message()])
        with transaction.atomic():
            assert silent.send_messages([message(), message()]) == 0
            User.objects.create_user("goes-on")  # in the same transaction
        with connection.schema_editor() as editor:
            editor.alter_db_table(Email, "mislaid", "mailrail_mail_email")
        assert User.objects.filter(username="goes-on").exists() and silent.send_messages([message()]) == 1


def test_in_silence_those_are_queued_that_can_be(
    way: Way, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if way.name == "pool":
        pytest.skip("see test_smtp_backend")
    silent = _silent(settings)
    assert silent.send_messages([message(), message(headers={"References": "\0"}), message()]) == 2
    assert "could not be queued" in caplog.text and "NUL" in caplog.text
    assert len(way.mails) == 2


# -- what a message says ----------------------------------------------------------------------------------------------


def test_headers_take_the_place_of_what_they_name(way: Way) -> None:
    headers = {
        "From": "Other <other@example.com>",
        "To": "list@example.com",
        "Cc": "shown@example.com",
        "Reply-To": "answers@example.com",
        "message-id": "<own@example.com>",
        "date": "Fri, 09 Nov 2001 01:08:47 -0000",
        "Sender": '"Name Sürname" <sender@example.com>',
    }
    made = message(cc=["c@example.com"], bcc=["b@example.com"], reply_to=["r@example.com"], headers=headers)
    assert made.send() == 1 and made.extra_headers is headers and len(headers) == 7
    [arrived], letter = way.mails, way.letter()
    assert (arrived.sender, arrived.recipients) == (ME, (YOU, "c@example.com", "b@example.com"))
    assert {name: letter.get_all(name) for name in headers} == {
        name: [value] for name, value in headers.items()
    } | {"Sender": ["Name Sürname <sender@example.com>"]}
    if way.name == "queue":
        assert Email.objects.get().message_id == "<own@example.com>"


def test_headers_alone_make_no_recipients(way: Way) -> None:
    assert message(to=[], headers={"To": YOU}).send() == 0
    assert way.mails == []


@pytest.mark.parametrize("bcc", ["Bcc", "bcc"])
def test_bcc_is_no_header(way: Way, bcc: str) -> None:
    """Django 6 refuses it, Django 5.2 shows it to everybody: that we do not."""
    made = message(headers={bcc: "secret@example.com"})
    if django.VERSION >= (6, 0):
        with pytest.raises(ValueError, match="Bcc is not a valid email header"):
            made.send()
        return
    made.send()
    assert way.name == "pool" or b"secret" not in way.mails[0].content


def test_what_is_worked_out_late_is_worked_out_in_the_language_of_the_request(way: Way) -> None:
    made = message(
        subject=gettext_lazy("Password"),
        body=gettext_lazy("Monday"),
        from_email=gettext_lazy("me@example.com"),
        to=[gettext_lazy("you@example.com")],
        cc=[gettext_lazy("c@example.com")],
        headers={"List-Unsubscribe": gettext_lazy("<https://example.com/>")},
    )
    with override("de"):
        assert made.send() == 1
    [arrived], letter = way.mails, way.letter()
    assert (arrived.sender, arrived.recipients) == (ME, (YOU, "c@example.com"))
    assert letter["Subject"] == "Passwort" and letter.get_content().strip() == "Montag"
    assert letter["List-Unsubscribe"] == "<https://example.com/>"


def test_addresses_may_be_objects(way: Way) -> None:
    address = Address("Ünal, Ann", "ann", "exämple.com")
    message(from_email=address, to=[address], reply_to=(address,)).send()
    [arrived], letter = way.mails, way.letter()
    assert (arrived.sender, arrived.recipients) == ("ann@xn--exmple-cua.com", ("ann@xn--exmple-cua.com",))
    for name in ("From", "To", "Reply-To"):
        [found] = letter[name].addresses
        assert (found.display_name, found.addr_spec) == ("Ünal, Ann", "ann@xn--exmple-cua.com")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("localpartonly", "localpartonly"),
        ("to@éxample.com", "to@xn--xample-9ua.com"),
        ("To <to@xn--4ca9at.com>", "to@xn--4ca9at.com"),
        ('"to@other.com" <to@example.com>', "to@example.com"),
        ('"a@b"@example.com', '"a@b"@example.com'),
        ('"Sürname, First" <to@example.com>', "to@example.com"),
    ],
)
def test_an_address_as_the_server_is_told_it(way: Way, given: str, told: str) -> None:
    message(to=[given]).send()
    [arrived] = way.mails
    assert arrived.recipients == (told,)


@pytest.mark.parametrize(
    "given",
    [
        "to@other.com@example.com",
        "to@other.com <to@example.com>",
        "@",
        "to@",
        "@example.com",
        "a@b.com, c@",
    ],
)
@pytest.mark.parametrize("where", ["to", "bcc", "from_email"])
def test_what_is_no_address_is_refused_at_once(way: Way, given: str, where: str) -> None:
    with pytest.raises(ValueError, match="nvalid address"):
        message(**{where: given if where == "from_email" else [given]}).send()
    assert way.mails == [] and not Email.objects.exists()


@pytest.mark.parametrize("where", ["to", "bcc"])
def test_an_entry_is_one_recipient(way: Way, where: str) -> None:
    """Several authors may stand in ``from_email``: see test_several_authors.py."""
    with pytest.raises(ValueError, match="nvalid address"):
        message(**{where: ["a@b.com, c@d.com"]}).send()
    assert way.mails == [] and not Email.objects.exists()


@pytest.mark.parametrize("name", ["subject", "from_email", "to", "cc", "reply_to", "headers"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_nobody_slips_in_a_header(way: Way, name: str, end: str) -> None:
    evil = f"x@example.com{end}Bcc: victim@example.com"
    value = {"subject": evil, "from_email": evil, "headers": {"X-Own": evil}}.get(name, [evil])
    with pytest.raises(ValueError):  # noqa: PT011 - Django's own words, which differ
        message(**{name: value}).send()
    assert way.mails == [] and not Email.objects.exists()


@pytest.mark.parametrize("local", [False, True])
def test_the_date_is_that_of_sending_in_the_zone_that_is_set(way: Way, settings: Any, local: bool) -> None:
    settings.EMAIL_USE_LOCALTIME, settings.TIME_ZONE = local, "Asia/Kathmandu"
    before = datetime.now(UTC).replace(microsecond=0)
    message().send()
    said = str(way.letter()["Date"])
    assert said[-5:] in (["+0545"] if local else ["+0000", "-0000"])  # -0000: Django 5.2, for the same
    assert before <= parsedate_to_datetime(said.replace("-0000", "+0000")) <= datetime.now(UTC)


def test_the_name_of_this_host_is_asked_for_once(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["漢字"]
    monkeypatch.setattr(socket, "getfqdn", names.pop)
    monkeypatch.delattr(DNS_NAME, "_fqdn", raising=False)
    for _ in range(3):
        message().send()
    assert all(letter["Message-ID"].endswith("@xn--p8s937b>") for letter in way.letters)
    assert names == [] and b"EHLO xn--p8s937b" in way.server.lines


def test_a_timeout_is_the_servers_and_none_is_none(way: Way) -> None:
    from mailrail.mail.mailers.config import open_backend, server_of

    for seconds in (None, 7.5):
        way.use(timeout=seconds)
        server = server_of(open_backend("out" if HAS_MAILERS else ""))
        assert server is not None
        assert (server.timeouts.command, server.timeouts.connect) == (
            (300, 30) if seconds is None else (7.5, 7.5)
        )


def test_what_is_changed_after_sending_was_not_sent(way: Way) -> None:
    made = message()
    made.send()
    made.subject, made.body = "Other", "Other."
    made.to.append("other@example.com")
    assert way.letter()["Subject"] == "Hi" and way.mails[0].recipients == (YOU,)


# -- bodies and attachments -------------------------------------------------------------------------------------------


def test_a_body_arrives_as_it_is(way: Way) -> None:
    bodies = ["From the future\n", "Ł" * 1200 + "\n", ".\n..\n", "", "a\r\nb\n"]
    for body in bodies:
        message(body=body).send()
    message(body=None).send()
    found = [letter.get_content() for letter in way.letters]
    assert [_in_lines(each) for each in found] == [_in_lines(each) for each in [*bodies, ""]]
    for arrived in way.mails:
        assert arrived.content.count(b"\n") == arrived.content.count(b"\r\n")
        assert max(map(len, arrived.content.split(b"\r\n"))) <= 998


def _in_lines(text: str) -> list[str]:
    return text.rstrip().replace("\r\n", "\n").split("\n")


def _attach(made: EmailMessage, folder: Path) -> None:
    made.attach("named.txt", "Käse\n", "text/plain")
    made.attach(EmailAttachment("tuple.txt", "text", "text/plain").filename, b"bytes of text", "text/plain")
    made.attach("guessed.png", b"\x89PNG")
    made.attach("notutf8.txt", b"\xff\xfe", "text/plain")
    made.attach("text-as-zip.zip", "text", "application/zip")
    made.attach(filename="keywords.bin", content=b"\0", mimetype=None)
    (folder / "file_txt").write_text("a file\n")
    (folder / "file.eml").write_bytes(b"Subject: Inside\n\nHello.\n")
    made.attach_file(str(folder / "file_txt"))
    attach_file: Any = made.attach_file  # takes paths, too
    attach_file(folder / "file_txt", "text/x-own")
    attach_file(folder / "file.eml")


def test_attachments_of_every_kind(way: Way, tmp_path: Path) -> None:
    made = EmailMultiAlternatives(
        "Hi",
        "Text.\n",
        ME,
        [YOU],
        alternatives=[EmailAlternative("<p>one</p>", "text/html"), (b"rtf \x07", "application/x-rtf")],
        attachments=[
            EmailAttachment("constructor.txt", "one\n", "text/plain"),
            ("no-type.bin", b"\1"),
            ("t.txt", "x"),
        ],
    )
    _attach(made, tmp_path)
    would = email.message_from_bytes(made.message().as_bytes(), policy=policy.default)
    assert made.send() == 1
    assert _parts(way.letter()) == _parts(would)
    names = [part[1] for part in _parts(would)]
    assert {"constructor.txt", "named.txt", "keywords.bin", "file_txt", "file.eml"} <= set(names)


def _parts(letter: Letter) -> list[tuple[Any, ...]]:
    return [
        (part.get_content_type(), part.get_filename(), part.get_content_disposition(), _payload(part))
        for part in letter.walk()
    ]


def _payload(part: Any) -> bytes | None:
    data: bytes | None = part.get_payload(decode=True)
    return data and data.replace(b"\r\n", b"\n").strip(b"\n")


@pytest.mark.parametrize(
    "wrong", [lambda m: m.attach("a.txt"), lambda m: m.attach_file("/nowhere/at-all.txt")]
)
def test_an_attachment_that_cannot_be_read_is_an_error_where_it_is_attached(
    wrong: Callable[[Any], None],
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        wrong(message())


def test_a_charset_of_the_messages_own(way: Way) -> None:
    from email.charset import QP, Charset

    charset = Charset("utf-8")
    charset.body_encoding = QP
    encodings: list[Any] = ["iso-8859-1", "utf-8"]
    made = message(body="Käse\n")
    made.encoding = charset
    if django.VERSION >= (6, 0):
        with pytest.raises((TypeError, CannotQueue), match="must be str, not Charset"):
            made.send()
    else:
        encodings.append(charset)
    for encoding in encodings:
        made = message(subject="Grüße", body="Käse\n")
        made.encoding = encoding
        made.send()
    assert [letter.get_content() for letter in way.letters] == ["Käse\n"] * len(encodings)
    charsets = [letter.get_content_charset() for letter in way.letters]
    assert charsets == ["iso-8859-1", "utf-8", "utf-8"][: len(encodings)]
    assert encodings[2:] == [] or way.letters[2]["Content-Transfer-Encoding"] == "quoted-printable"


@pytest.mark.skipif(django.VERSION < (6, 0), reason="message(policy=…) came with Django 6")
def test_a_stored_message_takes_a_policy_like_any_other(settings: Any) -> None:
    from mailrail.mail.queueing.serialize import dump, load

    class Own(EmailMessage):
        def message(self, *, policy: Any = policy.default) -> Any:
            made = super().message(policy=policy)
            made["X-Own"] = "yes"
            return made

    for kind in (EmailMessage, Own):
        content, files = dump(kind("Grüße", "Käse\n", ME, [YOU]))
        again = load(content, dict(files))
        for how in (policy.default, policy.SMTP, policy.SMTPUTF8):
            assert (
                email.message_from_bytes(again.message(policy=how).as_bytes(), policy=how)["Subject"]
                == "Grüße"
            )


# -- TLS, logins ------------------------------------------------------------------------------------------------------


def test_tls_and_ssl_exclude_each_other(way: Way) -> None:
    """As Django says it; of the queue the worker hears it, and waits for other settings."""
    way.use(use_tls=True, use_ssl=True)
    if way.name == "pool":
        error = djangos.InvalidMailer if HAS_MAILERS else ValueError
        with pytest.raises(error, match=r"exclusive|incompatible"):
            message().send()
        return
    queued = queue(message())
    assert way.mails == []
    queued.refresh_from_db()
    assert (queued.status, queued.attempts) == (Status.QUEUED, 0)


def test_starttls_is_tried_when_it_is_asked_for(way: Way) -> None:
    way.use(use_tls=True)
    if way.name == "pool":
        with pytest.raises((smtplib.SMTPException, ssl.SSLError), match="STARTTLS"):
            message().send()
        return
    message().send()
    assert way.mails == [] and Email.objects.get().status == Status.QUEUED
