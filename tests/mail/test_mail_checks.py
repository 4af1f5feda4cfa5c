"""What the checks say about a mail queue that would not deliver."""

from __future__ import annotations

from typing import Any

import django
import pytest
from django.core.checks import WARNING
from django.core.mail import send_mail
from django.core.mail.backends import smtp as djangos
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction

from mailrail.checks import check_settings
from mailrail.errors import InvalidSettings
from mailrail.mail.checks import check_mail, check_sensitive, check_storage
from mailrail.mail.unused import check_queue_is_used

QUEUE = "mailrail.mail.backend.EmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
CONSOLE = "django.core.mail.backends.console.EmailBackend"


def queueing(settings: Any, delivering: str, **options: Any) -> None:
    if django.VERSION >= (6, 1):
        settings.MAILERS = {
            "default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "out", **options}},
            "out": {"BACKEND": delivering, "OPTIONS": {"host": "a"} if delivering == SMTP else {}},
        }
    else:
        settings.EMAIL_BACKEND = QUEUE
        settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": delivering}


def said() -> list[str | None]:
    return [each.id for each in check_mail()]


def test_smtp_is_fine(settings: Any) -> None:
    queueing(settings, SMTP)
    assert said() == []


def test_nothing_is_wrong_with_a_project_that_does_not_queue(settings: Any) -> None:
    assert said() == [] and check_queue_is_used() == []  # the backend of Django's test runner


def use(settings: Any, backend: str) -> None:
    """As the default, without a queue."""
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": backend}}
    else:
        settings.EMAIL_BACKEND = backend
    settings.MAILRAIL = {}


@pytest.mark.parametrize("backend", [CONSOLE, SMTP])
@pytest.mark.parametrize("debug", [True, False])
def test_an_app_that_queues_nothing_is_told(settings: Any, backend: str, debug: bool) -> None:
    settings.DEBUG = debug
    use(settings, backend)
    [problem] = check_queue_is_used()
    assert problem.id == "mailrail.mail.W007" and problem.level == WARNING
    assert (
        backend in problem.msg
        and QUEUE in str(problem.hint)
        and "SILENCED_SYSTEM_CHECKS" in str(problem.hint)
    )


def test_a_project_without_any_mailer_is_told(settings: Any) -> None:
    use(settings, "")
    if django.VERSION >= (6, 1):
        settings.MAILERS = {}
    [problem] = check_queue_is_used()
    assert "missing" in problem.msg


@pytest.mark.parametrize("backend", [QUEUE, LOCMEM, "django.core.mail.backends.dummy.EmailBackend"])
def test_nobody_who_meant_it_is_nagged(settings: Any, backend: str) -> None:
    use(settings, backend)
    assert check_queue_is_used() == []


@pytest.mark.parametrize("meant", [{"MAILERS": {}}, {"DELIVER_WITH": SMTP}], ids=repr)
def test_settings_about_mailers_say_that_it_is_meant(settings: Any, meant: dict[str, Any]) -> None:
    use(settings, CONSOLE)
    settings.MAILRAIL = meant
    assert check_queue_is_used() == []


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_a_second_mailer_that_queues_says_that_the_default_is_meant(settings: Any) -> None:
    settings.MAILERS = {
        "default": {"BACKEND": CONSOLE},
        "queued": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "default"}},
    }
    assert check_queue_is_used() == []


def test_a_queue_that_delivers_to_itself(settings: Any) -> None:
    queueing(settings, QUEUE)
    assert "mailrail.mail.E001" in said()


def test_a_backend_that_does_not_import(settings: Any) -> None:
    queueing(settings, "nowhere.EmailBackend")
    assert said() == ["mailrail.mail.E003"]


@pytest.mark.parametrize("debug", [True, False])
def test_a_screen_is_no_mail_server(settings: Any, debug: bool) -> None:
    settings.DEBUG = debug
    queueing(settings, CONSOLE)
    assert said() == ([] if debug else ["mailrail.mail.W001"])


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
@pytest.mark.parametrize("options", [{}, {"deliver_with": "nowhere"}])
def test_a_mailer_that_is_missing(settings: Any, options: dict[str, str]) -> None:
    settings.MAILERS = {"default": {"BACKEND": QUEUE, "OPTIONS": options}}
    assert said() == ["mailrail.mail.E002"]


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_silence_is_warned_of(settings: Any) -> None:
    queueing(settings, SMTP, fail_silently=True)
    assert said() == ["mailrail.mail.W002"]


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
@pytest.mark.parametrize("left_behind", ["host", "colour"])
def test_options_of_a_server_that_stayed_behind(settings: Any, left_behind: str) -> None:
    queueing(settings, SMTP, **{left_behind: "a"})
    [problem] = check_mail()
    assert problem.id == "mailrail.mail.E005"
    assert "MAILERS['default']: Unknown options" in problem.msg and left_behind in problem.msg
    assert "belongs into MAILERS['out']" in str(problem.hint)


def test_a_storage_that_is_none(settings: Any) -> None:
    assert check_storage() == []
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_STORAGE": "default"}
    assert check_storage() == []
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_STORAGE": "nope"}
    [problem] = check_storage()
    assert problem.id == "mailrail.mail.E008" and "MAILRAIL['MAIL_STORAGE'] is 'nope'" in problem.msg


@pytest.mark.parametrize(
    ("path", "wrong"), [("mailrail.mail.VERSION", "imported"), ("mailrail.mail.models.FINAL", "no function")]
)
def test_a_function_for_what_is_sensitive_that_is_none(settings: Any, path: str, wrong: str) -> None:
    assert check_sensitive() == []
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_SENSITIVE": path}
    [problem] = check_sensitive()
    assert problem.id == "mailrail.mail.E009" and path in problem.msg and wrong in problem.msg


def test_the_backend_without_its_app(settings: Any) -> None:
    queueing(settings, SMTP)
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail.mail"]
    assert [each.id for each in check_settings()] == ["mailrail.E007"]


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
@pytest.mark.parametrize(
    ("mailers", "expected"),
    [
        ({"default": QUEUE}, []),  # Django's own check tells
        ({"default": {"BACKEND": QUEUE, "OPTIONS": ["smtp"]}}, []),
        ({"default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": ["smtp"]}}}, ["mailrail.mail.E002"]),
        (
            {"default": {"BACKEND": QUEUE, "deliver_with": "smtp"}, "smtp": {"OPTIONS": {"host": "a"}}},
            ["mailrail.mail.E002"],
        ),
        (
            {"default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "smtp"}}, "smtp": SMTP},
            ["mailrail.mail.E002"],
        ),
        (
            {"default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "smtp"}}, "smtp": {}},
            ["mailrail.mail.E005"],  # no host
        ),
        (
            {
                "default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "smtp"}},
                "smtp": {"BACKEND": SMTP, "OPTIONS": {"host": "a", "hots": "a"}},
            },
            ["mailrail.mail.E005"],
        ),
        ({"default": {"BACKEND": "mailrail.mail.EmailBackend"}}, ["mailrail.mail.E006"]),
    ],
)
def test_mailers_that_are_mistaken(settings: Any, mailers: dict[str, Any], expected: list[str]) -> None:
    settings.MAILERS = mailers
    assert said() == expected
    assert check_settings() == []


def test_options_that_contradict_each_other(settings: Any) -> None:
    if django.VERSION >= (6, 1):
        options = {"host": "a", "use_tls": True, "use_ssl": True}
        settings.MAILERS = {
            "default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "out"}},
            "out": {"BACKEND": SMTP, "OPTIONS": options},
        }
    else:
        queueing(settings, SMTP)
        settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = True
    [problem] = check_mail()
    assert problem.id == "mailrail.mail.E005" and "cannot be made" in problem.msg


def test_a_class_that_is_no_backend(settings: Any) -> None:
    queueing(settings, "django.core.mail.EmailMessage")
    [problem] = check_mail()
    assert problem.id == "mailrail.mail.E003" and "send_messages" in problem.msg


@pytest.mark.skipif(django.VERSION >= (6, 1), reason="MAILERS is read")
def test_mailers_that_nobody_reads(settings: Any) -> None:
    settings.MAILERS = {"default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "smtp"}}}
    [problem] = check_mail()
    assert problem.id == "mailrail.mail.W003" and "does not read MAILERS" in problem.msg


@pytest.mark.skipif(django.VERSION >= (6, 1), reason="needs EMAIL_BACKEND")
def test_a_backend_that_is_misspelled(settings: Any) -> None:
    settings.EMAIL_BACKEND = "mailrail.mail.EmailBackend"
    assert said() == ["mailrail.mail.E006"]


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_a_backend_that_nobody_reads(settings: Any) -> None:
    queueing(settings, SMTP)
    settings.MAILERS["out"]["OPTIONS"] = {"host": "a"}
    settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": SMTP}
    assert said() == ["mailrail.mail.W003"]


def test_the_app_without_mailrail(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail"]
    assert said() == ["mailrail.mail.E007"]


def test_sending_without_the_app_says_what_to_do(settings: Any) -> None:
    """``manage.py shell`` runs no checks."""
    queueing(settings, SMTP)
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail.mail"]
    with pytest.raises(InvalidSettings, match=r'Add "mailrail\.mail" to INSTALLED_APPS, and migrate'):
        send_mail("Hello", "A body.", "me@example.com", ["you@example.com"])


@pytest.mark.django_db
def test_sending_without_the_tables_says_what_to_do(settings: Any) -> None:
    queueing(settings, SMTP)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE mailrail_mail_email RENAME TO mailrail_mail_gone")
    with pytest.raises(OperationalError) as raised, transaction.atomic():
        send_mail("Hello", "A body.", "me@example.com", ["you@example.com"])
    with (
        pytest.raises(CommandError, match=r"mailrail_mail_email\. Run: .* mailrail_mail$"),
        transaction.atomic(),
    ):
        call_command("mailq")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE mailrail_mail_gone RENAME TO mailrail_mail_email")
    assert raised.value.__notes__ == ["Run: python manage.py migrate mailrail_mail"]


@pytest.mark.parametrize(
    ("login", "ids"),
    [
        ({"username": "shop", "password": ""}, ["mailrail.mail.W006"]),
        ({"username": "shop", "password": "secret"}, []),
        ({"username": "", "password": ""}, []),
    ],
)
def test_a_user_name_without_a_password(settings: Any, login: dict[str, str], ids: list[str]) -> None:
    """An empty variable: the server would answer 530 to every email."""
    queueing(settings, SMTP)
    if django.VERSION >= (6, 1):
        settings.MAILERS["out"]["OPTIONS"] = {"host": "a", **login}
    else:
        settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = login["username"], login["password"]
    assert said() == ids


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_a_token_in_place_of_a_password_is_fine(settings: Any) -> None:
    queueing(settings, "mailrail.mail.smtp.EmailBackend")
    settings.MAILERS["out"]["OPTIONS"] = {"host": "a", "username": "shop", "token": lambda: "token"}
    assert said() == []


@pytest.mark.parametrize(
    ("port", "use", "advice"),
    [
        (465, "use_tls", "use_ssl"),
        (465, "", "use_ssl"),
        (2465, "use_tls", "use_ssl"),
        (587, "use_ssl", "use_tls"),
        (25, "use_ssl", "use_tls"),
        (465, "use_ssl", ""),
        (587, "use_tls", ""),
        (587, "", ""),
        (8025, "use_tls", ""),
    ],
)
@pytest.mark.parametrize("backend", [SMTP, f"{__name__}.Overriding"])
def test_a_port_that_does_not_fit_the_way_to_tls(
    settings: Any, backend: str, port: int, use: str, advice: str
) -> None:
    queueing(settings, backend)
    if django.VERSION >= (6, 1):
        settings.MAILERS["out"]["OPTIONS"] = {"host": "a", "port": port, **({use: True} if use else {})}
    else:
        settings.EMAIL_PORT = port
        settings.EMAIL_USE_SSL, settings.EMAIL_USE_TLS = use == "use_ssl", use == "use_tls"
    assert said() == (["mailrail.mail.W008"] if advice else [])
    for warning in check_mail():
        assert str(port) in warning.msg and f"Write {advice} " in str(warning.hint)


class Overriding(djangos.EmailBackend):
    """Of a project: we do not look into it."""
