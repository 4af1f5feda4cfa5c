"""System checks: what is wrong with the settings, said before anything starts.

mailrail.E001  MAILRAIL holds an unknown key, a wrong type, or a path that does not import
mailrail.E002  a layer in CHANNEL_LAYERS cannot be used
mailrail.E003  the default layer has no durable verbs, or is missing
mailrail.E004  the routing does not import, contradicts itself, or asks what its layer cannot do
mailrail.W001  mailrail stands after an app whose runworker or runserver it extends
mailrail.W002  SQLite without IMMEDIATE transactions
mailrail.W003  SQLite without write-ahead logging
mailrail.W004  a route on a reserved name
mailrail.W005  a lease so long or short that recovery or renewal suffers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections
from django.utils.module_loading import import_string

from .conf import build, settings
from .errors import InvalidSettings
from .layers import default_alias, durable_aliases, get_layer
from .routing import Routing

RESERVED = ("mailrail.", "tasks.")


@register()
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Everything that can be known without a connection. The first error hides what depends on it."""
    try:
        build(getattr(django_settings, "MAILRAIL", {}))
    except InvalidSettings as error:
        return [Error(str(error), id="mailrail.E001")]
    return [*_check_middleware(), *_check_layers(), *_check_order()]


def _check_middleware() -> Iterable[CheckMessage]:
    for path in settings.consumer_middleware:
        try:
            usable = callable(import_string(path))
        except Exception as error:  # a module may raise anything
            why = f"cannot be imported: {error}"
        else:
            why = "" if usable else "is not a function"
        if why:
            yield Error(f"MAILRAIL['CONSUMER_MIDDLEWARE'] names {path!r}, which {why}.", id="mailrail.E001")


def _check_layers() -> Iterable[CheckMessage]:
    try:
        aliases = durable_aliases()
    except InvalidSettings as error:
        yield Error(str(error), id="mailrail.E002")
        return
    try:
        get_layer()
    except InvalidSettings as error:
        yield Error(str(error), id="mailrail.E003")
        aliases = [alias for alias in aliases if alias != default_alias()]
    for alias in aliases:
        yield from _check_layer(alias)


def _check_layer(alias: str) -> Iterable[CheckMessage]:
    try:
        layer = get_layer(alias)
        routing = Routing.of_layer(alias)
    except InvalidSettings as error:
        yield Error(str(error), id="mailrail.E004")
        return
    yield from _check_names(routing)
    if layer.is_shared:
        yield from _check_leases(routing)


def _check_names(routing: Routing) -> Iterable[CheckMessage]:
    for channel, plan in routing.plans.items():
        theirs = [route.name for route in plan.routes if not route.name.startswith("mailrail.")]
        if channel.startswith(RESERVED) and theirs:
            yield Warning(
                f"{theirs[0]} is routed on {channel!r}; names that begin with mailrail. or tasks. are "
                "Mailrail's own.",
                hint="Give the channel another name.",
                id="mailrail.W004",
            )


def _check_leases(routing: Routing) -> Iterable[CheckMessage]:
    for channel, plan in routing.plans.items():
        if not 1 <= plan.lease <= 3600:
            yield Warning(
                f"The lease of channel {channel!r} is {plan.lease:g} s. Leases are renewed while a consumer runs, "
                "however long that takes; the lease only says how soon a dead worker's messages are run by others.",
                hint="Something between 5 and 60 seconds suits nearly everything.",
                id="mailrail.W005",
            )


def _check_order() -> Iterable[CheckMessage]:
    names = [config.name for config in apps.get_app_configs()]
    for other in ("channels", "daphne", "django.contrib.staticfiles"):
        if other in names and names.index(other) < names.index("mailrail"):
            yield Warning(
                f'"mailrail" must stand before "{other}" in INSTALLED_APPS: both bring '
                f"{'runworker' if other == 'channels' else 'runserver'}, and the first one wins.",
                hint='Move "mailrail" to the top of INSTALLED_APPS.',
                id="mailrail.W001",
            )


@register(Tags.database)
def check_sqlite(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """How the database layer's SQLite file is opened; looks into the file, so only with ``--database``."""
    try:
        layers = [get_layer(alias) for alias in durable_aliases()]
    except InvalidSettings:
        return []  # check_settings tells
    used = {layer.using for layer in layers if layer.joins_transactions} & set(databases or ())
    return [found for using in sorted(used) for found in _check_sqlite(using)]


def _check_sqlite(using: str) -> Iterable[CheckMessage]:
    connection: Any = connections[using]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return
    options = f"DATABASES[{using!r}]['OPTIONS']"
    if (connection.settings_dict["OPTIONS"].get("transaction_mode") or "").upper() != "IMMEDIATE":
        yield Warning(
            f"The database layer shares the SQLite database {using!r} with transactions that read first and write "
            "later; those fail with 'database is locked' when somebody writes in between.",
            hint=f'{options}["transaction_mode"] = "IMMEDIATE"',
            id="mailrail.W002",
        )
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        [mode] = cursor.fetchone()
    if mode != "wal":
        yield Warning(
            f"The SQLite database {using!r} keeps a {mode} journal, in which readers and writers wait for each other.",
            hint=f'{options}["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"',
            id="mailrail.W003",
        )
