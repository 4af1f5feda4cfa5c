"""Who may read what an email holds: those with a permission of its own, and nobody where it holds a secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import Permission, User
from django.core.mail import EmailMessage, EmailMultiAlternatives, send_mail
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from mailrail import Channel, mail
from mailrail.invitations import invite
from mailrail.mail import Email, Status
from mailrail.testing import deliver, drain

from ..listed import waiting_on
from .conftest import CHANNEL

SECRET = "8f3kd0-the-key-of-it"
LIST = "/admin/mailrail_mail/email/"
VIEWS = ("preview", "source", "part")


@pytest.fixture(autouse=True)
def queues(queueing: Callable[..., None], on: str) -> None:
    queueing(1)


def colleague(client: Client, *permissions: str) -> Client:
    user = User.objects.create_user("colleague", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def secret(**marks: Any) -> EmailMultiAlternatives:
    message = EmailMultiAlternatives(
        f"Code {SECRET}",
        f"A link: {SECRET}\n",
        "me@example.com",
        ["you@example.com"],
        headers={"X-Key": SECRET},
    )
    message.attach_alternative(f"<a href='{SECRET}'>here</a>", "text/html")
    message.attach(f"{SECRET}.txt", SECRET.encode(), "text/plain")
    for name, value in marks.items():
        setattr(message, name, value)
    return message


def page(email: Email, name: str, *more: Any) -> str:
    return reverse(f"admin:mailrail_mail_email_{name}", args=(email.pk, *more))


def urls_of(email: Email) -> list[str]:
    own = [page(email, "preview"), page(email, "preview") + "?text=1", page(email, "source")]
    return [*own, *(page(email, "part", number) for number in range(3))]


# -- a permission of its own ------------------------------------------------------------------------------------------


def test_whoever_may_see_emails_may_not_read_them(client: Client) -> None:
    email = mail.queue(secret())
    colleague(client, "view_email")
    assert [client.get(url).status_code for url in urls_of(email)] == [403] * 6
    shown = client.get(page(email, "change") + "?contents")
    assert shown.status_code == 200 and "Can view the content of email" in shown.text
    assert "A link" not in shown.text and "X-Key" not in shown.text and f"{SECRET}.txt" not in shown.text
    assert (
        "you@<wbr>example.<wbr>com" in shown.text and f"Code {SECRET}" in shown.text
    )  # how it stands, and its subject


def test_whoever_may_read_emails_reads_them_and_has_to_see_them_for_that(client: Client) -> None:
    email = mail.queue(secret())
    colleague(client, "view_email", "view_email_content")
    assert [client.get(url).status_code for url in urls_of(email)] == [200] * 6
    assert "X-Key" in client.get(page(email, "change")).text
    User.objects.get(username="colleague").user_permissions.remove(
        Permission.objects.get(codename="view_email")
    )
    assert [client.get(url).status_code for url in urls_of(email)] == [403] * 6


@pytest.mark.parametrize(
    "query",
    [
        f"content__icontains={SECRET}",
        "content__fields__body__startswith=A",
        "subject__startswith=Code",
        "digest=x",
    ],
)
def test_a_list_cannot_be_asked_about_columns_that_it_does_not_show(
    client: Client, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    mail.queue(secret())
    colleague(client, "view_email", "view_invitation")
    assert client.get(f"{LIST}?{query}").status_code == 400
    assert client.get("/admin/mailrail_invitations/invitation/?salt__startswith=a").status_code == 400
    assert client.get(f"{LIST}?status=queued&mailer=&tag=&about=").status_code == 200


# -- what nobody reads ------------------------------------------------------------------------------------------------


def test_nobody_reads_a_secret_in_the_admin(admin_client: Client) -> None:
    email = mail.queue(secret(mailrail_sensitive=True))
    assert [admin_client.get(url).status_code for url in urls_of(email)] == [403] * 6
    history = page(email, "history")
    Email.objects.update(status=Status.FAILED)
    for url in (LIST, page(email, "change") + "?contents", history, page(email, "delete")):
        response = admin_client.get(url)
        assert response.status_code == 200 and SECRET not in response.text, url
    chosen = {"action": "delete_selected", "_selected_action": str(email.pk)}
    assert SECRET not in admin_client.post(LIST, chosen).text
    assert "not shown" in admin_client.get(LIST).text


def test_a_search_finds_a_secret_by_its_recipient_and_not_by_its_subject(admin_client: Client) -> None:
    mail.queue_many(
        [secret(mailrail_sensitive=True), EmailMessage("Code of honour", "", None, ["you@example.com"])]
    )

    def found(term: str) -> int:
        return len(admin_client.get(LIST, {"q": term}).context["cl"].result_list)

    assert (found("Code"), found(SECRET), found("you@")) == (1, 0, 2)


def test_a_secret_is_sent_again_and_its_copy_is_one(
    admin_client: Client, mailoutbox: Any, queueing: Any
) -> None:
    queueing(0, "django.core.mail.backends.locmem.EmailBackend")
    email = mail.queue(secret(mailrail_sensitive=True))
    deliver()
    admin_client.post(page(email, "decide"), {"decision": "resend"})
    deliver()
    assert [SECRET in sent.body for sent in mailoutbox] == [True, True]
    assert list(Email.objects.values_list("status", "sensitive")) == [("sent", True)] * 2


def test_a_password_reset_is_a_secret(admin_client: Client, admin_user: User) -> None:
    class Own(PasswordResetForm):
        def send_mail(self, *args: Any, **kwargs: Any) -> None:
            super().send_mail(*args, **kwargs)

    for form in (PasswordResetForm, Own):
        filled = form({"email": admin_user.email})
        assert filled.is_valid()
        filled.save(domain_override="example.com", use_https=True)
    send_mail("Password reset", "Only by its name.", None, ["you@example.com"])
    assert list(Email.objects.order_by("pk").values_list("sensitive", flat=True)) == [True, True, False]


def test_an_invitation_is_a_secret(admin_user: User) -> None:
    invite("guest@example.com", admin_user)
    drain("send-invite")
    assert [email.sensitive for email in Email.objects.all()] == [True]


def test_a_mark_changes_nothing_of_what_is_stored(on: str) -> None:
    plain, marked = mail.queue_many([secret(), secret(mailrail_sensitive=True)])
    assert plain.content == marked.content
    stored = Email.objects.using(on).order_by("pk").values_list("sensitive", flat=True)
    assert list(stored) == [False, True]
    first = mail.queue(secret(), key="once")
    assert mail.queue(secret(mailrail_sensitive=True), key="once").pk == first.pk


# -- the setting ------------------------------------------------------------------------------------------------------


def by_subject(message: EmailMessage) -> Any:
    return "code" in message.subject.lower() or mail.is_sensitive(message)


def broken(message: EmailMessage) -> bool:
    raise RuntimeError("broken")


def test_the_project_says_what_is_a_secret(settings: Any) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_SENSITIVE": f"{__name__}.by_subject"}
    plain = EmailMessage("Hello", "", None, ["you@example.com"])
    marked = EmailMessage("Hello", "", None, ["you@example.com"])
    marked.mailrail_sensitive = True  # type: ignore[attr-defined]
    assert [email.sensitive for email in mail.queue_many([secret(), plain, marked])] == [True, False, True]


def test_an_email_is_queued_as_a_secret_where_the_function_fails(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_SENSITIVE": f"{__name__}.broken"}
    assert mail.queue(secret()).sensitive
    assert "MAIL_SENSITIVE" in caplog.text


# -- elsewhere --------------------------------------------------------------------------------------------------------


def test_no_channel_and_no_command_tells_what_an_email_holds(
    on: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    email = mail.queue(secret())
    [message] = waiting_on(Channel(CHANNEL).layer, CHANNEL, 10)
    assert message.content == {"id": str(email.pk)} and SECRET not in json.dumps(message.headers)
    Email.objects.using(on).update(status=Status.FAILED)
    for arguments in (["mailq"], ["mailq", "--json"], ["channels"]):
        out = StringIO()
        call_command(*arguments, stdout=out)
        assert SECRET not in out.getvalue(), arguments
    assert SECRET not in caplog.text and not LogEntry.objects.filter(object_repr__contains=SECRET)
