"""What the pages on email say is so: their code runs, their tables are whole."""

from __future__ import annotations

import ast
import inspect
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage
from django.utils.log import AdminEmailHandler

from mailrail import conf, mail
from mailrail.mail import Email, Status
from mailrail.mail.checks import check_mail
from mailrail.testing import mail_queue, queued_emails

ROOT = Path(__file__).resolve().parent.parent
QUEUE = "mailrail.mail.backend.EmailBackend"
needs_mailers = pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")


def blocks(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def rows(path: str, until: str = "\n\0") -> list[list[str]]:
    """The cells of the tables of a page, without their heads, up to a heading."""
    text = (ROOT / path).read_text().partition(until)[0]
    lines = re.findall(r"^\| `.*\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def run(code: str, **names: Any) -> dict[str, Any]:
    exec(code, names)
    return names


# -- testing-mail.md: its tests are collected and run, as in a project -------------------------------------------------

IN_TEST_CASE, WITH_PYTEST = blocks("docs/how-to/testing-mail.md")


def _set_up(cls: Any) -> None:
    from django.contrib.auth import get_user_model

    get_user_model().objects.create_user("ada", "ada@example.com", "a password")


# Made without a name for the class of the page: pytest would run that one, too.
TestOfThePage = type(
    "TestOfThePage",
    (run(IN_TEST_CASE, __name__=__name__)["PasswordResetTests"],),
    {"setUpTestData": classmethod(_set_up)},
)


@pytest.fixture
def user(django_user_model: Any) -> Any:
    return django_user_model.objects.create_user("ada", "ada@example.com", "a password")


test_of_the_page_with_pytest = pytest.mark.django_db(run(WITH_PYTEST)["test_a_reset_is_mailed"])


# -- mail-queue.md, anymail.md, the README -----------------------------------------------------------------------------


def first_block(part: str) -> str:
    """Of the page on the mail queue, the first one with this in it."""
    return next(block for block in blocks("docs/how-to/mail-queue.md") if part in block)


MAILERS, BEFORE, LOGGING = map(first_block, ("MAILERS = ", "EMAIL_BACKEND = ", "LOGGING = "))


@needs_mailers
def test_the_mailers_of_the_page_pass_the_checks(settings: Any) -> None:
    settings.MAILERS = run(MAILERS)["MAILERS"]
    assert check_mail() == []
    [handler] = run(LOGGING)["LOGGING"]["handlers"].values()
    assert handler["using"] in settings.MAILERS
    made: Any = AdminEmailHandler(using=handler["using"])
    assert made.using == "smtp"


@needs_mailers
def test_the_mailers_of_the_readme_pass_the_checks(settings: Any) -> None:
    [block] = [each for each in blocks("README.md") if "MAILERS =" in each]
    settings.MAILERS = run(block)["MAILERS"]
    assert check_mail() == []


@needs_mailers
@pytest.mark.parametrize(
    ("url", "port", "encryption"),
    [
        ("smtp://mail.example.com", 25, {"use_tls": False, "use_ssl": False}),
        ("smtp+tls://ann:p%40ss@mail.example.com", 587, {"use_tls": True, "use_ssl": False}),
        ("smtp+ssl://ann:p%40ss@mail.example.com:466", 466, {"use_tls": False, "use_ssl": True}),
    ],
)
def test_an_email_url_becomes_a_mailer(
    settings: Any, monkeypatch: pytest.MonkeyPatch, url: str, port: int, encryption: dict[str, bool]
) -> None:
    monkeypatch.setenv("EMAIL_URL", url)
    settings.MAILERS = run(first_block("EMAIL_URL"))["MAILERS"]
    assert check_mail() == []
    options = settings.MAILERS["smtp"]["OPTIONS"]
    assert (options["host"], options["port"]) == ("mail.example.com", port)
    assert {name: options[name] for name in encryption} == encryption
    assert (options["username"], options["password"]) == (("ann", "p@ss") if "ann" in url else ("", ""))


@pytest.mark.skipif(django.VERSION >= (6, 1), reason="needs EMAIL_BACKEND")
def test_the_settings_before_django_6_1_pass_the_checks(settings: Any) -> None:
    for name, value in run(BEFORE).items():
        if name.isupper():
            setattr(settings, name, value)
    assert settings.EMAIL_BACKEND == QUEUE and check_mail() == []


def test_the_settings_for_anymail_queue() -> None:
    with_mailers, before = (run(block) for block in blocks("docs/how-to/anymail.md"))
    assert with_mailers["MAILERS"]["default"]["BACKEND"] == before["EMAIL_BACKEND"] == QUEUE
    assert with_mailers["MAILERS"]["esp"]["BACKEND"] == before["MAILRAIL"]["DELIVER_WITH"]


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["docs/how-to/mail-queue.md", "README.md"])
def test_what_queue_can_do_runs(page: str, user: Any) -> None:
    [block] = [each for each in blocks(page) if "mail.queue(" in each]
    message = EmailMessage("Hello", "A body.", "me@example.com", ["you@example.com"])
    with mail_queue():
        run(block, message=message, order=user, timedelta=timedelta, messages=[message], mail=mail)
    first = Email.objects.order_by("pk")[0]
    assert first.key == f"receipt-{user.pk}" and first.send_at is not None
    assert (len(queued_emails()), first.status) == (
        (2, "queued") if "messages" in block else (0, "cancelled")
    )


@pytest.mark.django_db
def test_the_attributes_that_the_class_of_the_page_names_are_stored() -> None:
    kind = run(first_block("mailrail_attributes"))["NewsletterMessage"]
    message = kind("Hello", "A body.", "me@example.com", ["you@example.com"])
    message.campaign, kind.region = "spring", "eu"
    with mail_queue():
        mail.queue(message)
    assert Email.objects.get().content["attributes"] == {"campaign": "spring", "region": "eu"}


# -- the references ----------------------------------------------------------------------------------------------------


EMPTY = {"dataclasses.field(default_factory=dict)": "{}"}
"""What stands in the code, and what it means."""


def test_the_reference_of_settings_is_that_of_the_code() -> None:
    source = inspect.getsource(conf.Settings)
    matches = re.findall(
        r'\n    (\w+): [^=\n]+ = (\(\n.*?\n    \)|[^\n]*)\n    """(.*?)"""', source, re.DOTALL
    )
    assert [name for name, _, _ in matches] == list(conf.Settings.__dataclass_fields__)
    written = [
        [f"`{name.upper()}`", f"`{_on_a_line(name, default)}`", " ".join(text.split()).replace("``", "`")]
        for name, default, text in matches
    ]
    assert rows("docs/reference/settings.md", until="\n## TASKS\n") == written


def _on_a_line(name: str, default: str) -> str:
    if "\n" not in default:
        return EMPTY.get(default, default)
    value: Any = conf.Settings.__dataclass_fields__[name].default
    return f"({', '.join(map(json.dumps, value))})"


def test_the_settings_of_email_are_on_its_page() -> None:
    named = {cells[0].strip("`") for cells in rows("docs/how-to/mail-queue.md")}
    fields = {name.upper() for name in conf.Settings.__dataclass_fields__}
    assert {name for name in fields if name.startswith("MAIL_")} | {"DELIVER_WITH"} <= named
    assert all(
        isinstance(ast.parse(cells[1].strip("`")), ast.Module)
        for cells in rows("docs/reference/settings.md", until="\n## TASKS\n")
    )


def test_the_reference_of_statuses_is_whole() -> None:
    assert [cells[0].strip("`") for cells in rows("docs/reference/email-statuses.md")] == Status.values
