"""A project that queues its email, in either of the ways Django has for saying so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage

from mailrail.layers import get_layer
from mailrail.mail.mailers import circuit, limiter, logins, refused_senders, throttle, waiting
from mailrail.mail.smtp import close_pools
from mailrail.routing import Routing
from mailrail.worker import Worker

from ..servers import ValkeyServer

BACKEND = "mailrail.mail.backend.EmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
MAILER = "out" if django.VERSION >= (6, 1) else "default"
"""What settings call the mailer that delivers."""
CHANNEL = f"mailrail.mail.{MAILER}"
"""Where its email waits."""


def messages(count: int, domain: str = "example.com") -> list[EmailMessage]:
    return [
        EmailMessage(f"Number {n}", "A body.\n", "me@example.com", [f"to{n}@{domain}"]) for n in range(count)
    ]


def work() -> None:
    """One worker, in batches as in production, until nothing is due. It begins without what others know."""
    circuit.forget()
    Worker(get_layer(), Routing.of_layer(), ["mailrail.mail"], drain=True).run()


@pytest.fixture
def fresh_connections() -> Iterator[None]:
    """None is kept for another test's server."""
    yield
    close_pools()


@pytest.fixture
def queueing(settings: Any) -> Callable[..., None]:
    """``queueing(port)``: from now on email is queued, and delivered to that port by Django's SMTP backend.

    Port 0 is for backends that have none.
    """

    def configure(port: int, delivering: str = SMTP, **options: Any) -> None:
        if django.VERSION >= (6, 1):
            own = {"host": "127.0.0.1", "port": port, **options} if port else options
            settings.MAILERS = {
                "default": {"BACKEND": BACKEND, "OPTIONS": {"deliver_with": "out"}},
                "out": {"BACKEND": delivering, "OPTIONS": own},
            }
        else:
            settings.EMAIL_BACKEND = BACKEND
            settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
            for name, value in options.items():
                setattr(settings, f"EMAIL_{name.upper()}", value)
            settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": delivering}

    return configure


@pytest.fixture
def policy(settings: Any) -> Callable[..., None]:
    """``policy(RATE="10/s")``: of the mailer that delivers."""

    def configure(alias: str = MAILER, **said: Any) -> None:
        others = settings.MAILRAIL.get("MAILERS", {})
        settings.MAILRAIL = {**settings.MAILRAIL, "MAILERS": {**others, alias: said}}

    return configure


@pytest.fixture
def second(settings: Any, policy: Callable[..., None]) -> Callable[..., None]:
    """``second("backup", port)``: one more mailer, with a policy of its own."""

    def configure(alias: str, port: int, backend: str = SMTP, **said: Any) -> None:
        options: dict[str, Any] = {"host": "127.0.0.1", "port": port} if backend == SMTP else {}
        if django.VERSION >= (6, 1):
            settings.MAILERS = {**settings.MAILERS, alias: {"BACKEND": backend, "OPTIONS": options}}
            policy(alias, **said)
        else:
            if backend == SMTP:  # what is not said is taken from EMAIL_HOST_USER and its like
                options |= {"username": "", "password": ""}
            policy(alias, BACKEND=backend, OPTIONS=options, **said)

    return configure


@pytest.fixture(autouse=True)
def _no_beliefs() -> None:
    """What this process has read, said and proven in another test."""
    throttle.forget()
    circuit.forget()
    circuit._probes._forget()
    waiting.forget()
    limiter.forget()
    refused_senders.forget()
    logins.forget()
    circuit.forget_logged()


@pytest.fixture(
    params=[
        pytest.param("default", id="sqlite", marks=pytest.mark.django_db(transaction=True)),
        pytest.param(
            "postgres",
            id="postgres",
            marks=pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
        ),
    ]
)
def on(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Records of email and their messages are on this database; users of the admin are on the default one."""
    alias: str = request.param
    if alias != "default":
        monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", alias)
        settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": alias}}
    }
    return alias


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis", "redis with an outbox"])
def each_layer(
    request: pytest.FixtureRequest,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    valkey: ValkeyServer,
    queueing: Callable[..., None],
) -> None:
    """The default layer, of every kind; the records are beside the messages where those are in a database.

    What is delivered is in ``django.core.mail.outbox``. For tests that may use the database "postgres".
    """
    kind: str = request.param
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "memory": ("InMemoryChannelLayer", {}),
        "sqlite": ("DatabaseChannelLayer", {}),
        "postgres": ("DatabaseChannelLayer", {"using": "postgres"}),
        "redis": ("RedisChannelLayer", {"hosts": [valkey.url]}),
        "redis with an outbox": ("RedisChannelLayer", {"hosts": [valkey.url], "outbox": True}),
    }
    backend, config = configs[kind]
    if backend != "DatabaseChannelLayer":
        config = {**config, "routing": "tests.routes.on_redis"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"mailrail.layers.{backend}", "CONFIG": config}}
    if kind == "postgres":
        monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
        settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    queueing(0, LOCMEM)
