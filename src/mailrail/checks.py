"""Check the settings at start (Django's system checks).

mailrail.E001  MAILRAIL holds an unknown key, a wrong type, or a path that does not import
mailrail.E002  a layer in CHANNEL_LAYERS cannot be used
mailrail.E003  the default layer has no durable verbs, or is missing
mailrail.E004  the routing does not import, contradicts itself, or asks what its layer cannot do
mailrail.E005  a router keeps the layer's tables out of its database
mailrail.E006  a layer's server is too old (with --deploy)
mailrail.E007  the backend that queues email is used without its app
mailrail.E008  the tables of a layer, or of its outbox, are missing (with --deploy)
mailrail.E009  TENANT_APPS, or TENANT_TYPES, puts our tables into the schemas of tenants
mailrail.W001  mailrail stands after an app whose runworker or runserver it extends
mailrail.W002  SQLite without IMMEDIATE transactions
mailrail.W003  SQLite without write-ahead logging
mailrail.W004  a route on a reserved name
mailrail.W005  a lease so long or short that recovery or renewal suffers
mailrail.W006  a layer's server may lose messages, or cannot be asked (with --deploy)
mailrail.W007  Channels is used, and no layer has groups
mailrail.W008  a consumer gets nothing, as one before it takes all messages of its channel
mailrail.W009  the module tasks of an app declares entries of the schedule, whose app is not installed
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections, router

from .autoreload import import_watched
from .conf import build, read_for_checks, settings
from .errors import InvalidSettings, LayerUnavailable
from .layers import (
    DurableLayer,
    default_alias,
    durable_aliases,
    get_layer,
    read_layers,
    unbuilt_routing,
)
from .layers.tables import lacks_tables
from .mail.mailers.config import email_backend
from .models import StoredMessage
from .routing import Routing

QUEUES = "mailrail.mail.backend.EmailBackend"
RESERVED = ("mailrail.", "tasks.")
_USES_SCHEDULE = re.compile(
    rb"^(from mailrail\.schedule |import mailrail\.schedule|from mailrail import .*schedule)", re.M
)


@register()
@read_for_checks()
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check everything that needs no connection. Each mistake is reported once, and hides only dependent checks."""
    messages = list(_check_keys())
    texts = {message.msg for message in messages}
    for part in (
        _check_middleware,
        _check_layers,
        _check_order,
        _check_mail_app,
        _check_schedule_app,
        _check_tenants,
    ):
        for message in part():
            if message.msg not in texts:
                texts.add(message.msg)
                messages.append(message)
    return messages


def _check_keys() -> Iterable[CheckMessage]:
    try:
        build(getattr(django_settings, "MAILRAIL", {}))
    except InvalidSettings as error:
        yield from (Error(mistake, id="mailrail.E001") for mistake in error.mistakes)


def _check_middleware() -> Iterable[CheckMessage]:
    try:
        paths = settings.consumer_middleware
    except InvalidSettings:
        return  # E001 reports it
    for path in paths:
        try:
            usable = callable(import_watched(path))
        except Exception as error:  # a module may raise anything
            problem = f"cannot be imported: {error}"
        else:
            problem = "" if usable else "is not a function"
        if problem:
            yield Error(
                f"MAILRAIL['CONSUMER_MIDDLEWARE'] names {path!r}, which {problem}.", id="mailrail.E001"
            )


def _check_layers() -> Iterable[CheckMessage]:
    try:
        aliases, unbuilt_layers = read_layers()
    except InvalidSettings as error:
        yield from (Error(mistake, id="mailrail.E002") for mistake in error.mistakes)
        return
    for alias, unbuilt in unbuilt_layers.items():
        yield from (Error(mistake, id="mailrail.E002") for mistake in unbuilt.mistakes)
        yield from _check_unbuilt(alias)
    unusable = list(_check_default(unbuilt_layers))
    yield from unusable
    for alias in aliases:
        if not (unusable and alias == _default()):
            yield from _check_layer(alias)
    if not unbuilt_layers:
        yield from _check_groups()


def _default() -> str | None:
    try:
        return default_alias()
    except InvalidSettings:
        return None  # E001 reports it


def _check_default(unbuilt_layers: Collection[str]) -> Iterable[CheckMessage]:
    """Check the default layer. ``unbuilt_layers``: aliases of layers that cannot be built, which E002 reports."""
    alias = _default()
    if alias is None or alias in unbuilt_layers:
        return
    try:
        get_layer(alias)
    except InvalidSettings as error:
        yield from (Error(mistake, id="mailrail.E003") for mistake in error.mistakes)


def _check_unbuilt(alias: str) -> Iterable[CheckMessage]:
    """Check the routing of a layer that cannot be built: it may have mistakes of its own."""
    if (routing := unbuilt_routing(alias)) is None:
        return
    try:
        Routing.check_unbuilt(alias, *routing)
    except InvalidSettings as error:
        yield from (Error(mistake, id="mailrail.E004") for mistake in error.mistakes)


def _check_groups() -> Iterable[CheckMessage]:
    """Warn if no layer has groups: only the layer on a Redis Cluster lacks them. Any further entry silences this."""
    configured = getattr(django_settings, "CHANNEL_LAYERS", None) or {}
    uses_channels = apps.is_installed("channels") or getattr(django_settings, "ASGI_APPLICATION", None)
    if not (configured and uses_channels):
        return
    layers: dict[str, Any] = {alias: get_layer(alias) for alias in durable_aliases()}
    without = [alias for alias, layer in layers.items() if "groups" not in layer.extensions]
    if len(without) == len(configured):
        aliases = " and ".join(f"CHANNEL_LAYERS[{alias!r}]" for alias in without)
        yield Warning(
            f"{aliases} lies on a Redis Cluster, where there are no groups and no process-local channels: "
            "what WebSocket consumers use of them fails.",
            hint='Add "groups": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [one '
            'server or node]}} to CHANNEL_LAYERS, and use it by name: channel_layer_alias = "groups" in those '
            'consumers, get_channel_layer("groups") elsewhere. A project without either silences this check.',
            id="mailrail.W007",
        )


def _check_layer(alias: str) -> Iterable[CheckMessage]:
    try:
        layer = get_layer(alias)
        yield from _check_router(layer)
        routing = Routing.of_layer(alias)
    except InvalidSettings as error:
        yield from (Error(mistake, id="mailrail.E004") for mistake in error.mistakes)
        return
    yield from _check_names(routing)
    yield from _check_shadows(routing)
    if layer.is_shared:
        yield from _check_leases(routing)


def _check_router(layer: DurableLayer) -> Iterable[CheckMessage]:
    if layer.joins_transactions and not router.allow_migrate_model(layer.using, StoredMessage):
        yield Error(
            f"DATABASE_ROUTERS keep Mailrail's tables out of the database {layer.using!r}, in which the layer keeps "
            "its messages.",
            hint=f"Let allow_migrate({layer.using!r}, 'mailrail') of your router return True, then run: "
            f"python manage.py migrate mailrail --database {layer.using}",
            id="mailrail.E005",
        )


def _check_names(routing: Routing) -> Iterable[CheckMessage]:
    for channel, plan in routing.plans.items():
        names = [route.name for route in plan.routes if not route.name.startswith("mailrail.")]
        if channel.startswith(RESERVED) and names:
            yield Warning(
                f"{names[0]} is routed on {channel!r}; names that begin with mailrail. or tasks. are "
                "Mailrail's own.",
                hint="Give the channel another name.",
                id="mailrail.W004",
            )


def _check_shadows(routing: Routing) -> Iterable[CheckMessage]:
    """Warn of routes behind one without filters: the first match gets the message, so they get none."""
    for channel, plan in routing.plans.items():
        takes_all = next((route for route in plan.routes if not route.filters), plan.routes[-1])
        for route in plan.routes[plan.routes.index(takes_all) + 1 :]:
            yield Warning(
                f"{route.name} gets nothing of channel {channel!r}: {takes_all.name} stands before it, and takes "
                "every message.",
                hint="Give one of them another channel, or the first one a filter. A message goes to one consumer.",
                id="mailrail.W008",
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


_EXTENDED = {
    "channels": "runworker",
    "daphne": "runserver",
    "django.contrib.staticfiles": "runserver",
    "django_extensions": "runserver_plus",
}


def _check_order() -> Iterable[CheckMessage]:
    names = [config.name for config in apps.get_app_configs()]
    for app, command in _EXTENDED.items():
        if app in names and names.index(app) < names.index("mailrail"):
            yield Warning(
                f'"mailrail" must stand before "{app}" in INSTALLED_APPS: both bring '
                f"{command}, and the first one wins.",
                hint='Move "mailrail" to the top of INSTALLED_APPS.',
                id="mailrail.W001",
            )


@register(deploy=True)
@read_for_checks()
def check_storage(**kwargs: Any) -> list[CheckMessage]:
    """Ask the layers' servers for concerns. This needs connections, so it runs only with ``--deploy``."""
    return [message for alias, layer in buildable().items() for message in _check_storage(alias, layer)]


def buildable() -> dict[str, DurableLayer]:
    """Return the layers by alias; none if one of them cannot be built, which ``check_settings`` reports."""
    try:
        return {alias: get_layer(alias) for alias in durable_aliases()}
    except InvalidSettings:
        return {}


def _check_storage(alias: str, layer: DurableLayer) -> Iterable[CheckMessage]:
    where = f"CHANNEL_LAYERS[{alias!r}]"
    try:
        if layer.joins_transactions and (lack := lacks_tables(layer.using)):
            reason = "CONFIG['outbox'] = True needs tables in a database. " if layer.outbox else ""
            yield Error(f"{where}: {reason}{lack}", id="mailrail.E008")
        for concern in layer.concerns():
            yield Warning(f"{where}: {concern}", id="mailrail.W006")
    except LayerUnavailable as error:
        yield Warning(f"{where} cannot be asked whether it may lose messages: {error}", id="mailrail.W006")
    except InvalidSettings as error:
        yield Error(f"{where}: {error}", id="mailrail.E006")


def _check_mail_app() -> Iterable[CheckMessage]:
    """Check for the mail app. The backend is compared by path: without the app, it cannot be imported."""
    mailers = getattr(django_settings, "MAILERS", None) or {}
    entries = mailers.values() if isinstance(mailers, Mapping) else ()
    paths = [mailer.get("BACKEND") for mailer in entries if isinstance(mailer, Mapping)]
    paths.append(email_backend())
    if QUEUES in paths and not apps.is_installed("mailrail.mail"):
        yield Error(
            f'Email is queued by {QUEUES}, and "mailrail.mail" is not in INSTALLED_APPS: there is no table for it.',
            hint='Add "mailrail.mail" to INSTALLED_APPS, and migrate.',
            id="mailrail.E007",
        )


def _check_schedule_app() -> Iterable[CheckMessage]:
    """Look into the modules ``tasks`` without importing them: without the app, perhaps nobody ever does."""
    if apps.is_installed("mailrail.schedule"):
        return
    for config in apps.get_app_configs():
        spec = PathFinder.find_spec(f"{config.name}.tasks", getattr(config.module, "__path__", ()))
        path = Path(spec.origin or "") if spec is not None else Path()
        if path.suffix == ".py" and _USES_SCHEDULE.search(path.read_bytes()):
            yield Warning(
                f'{config.name}.tasks uses mailrail.schedule, and "mailrail.schedule" is not in INSTALLED_APPS: no '
                "worker looks at the entries that it declares.",
                hint='Add "mailrail.schedule" to INSTALLED_APPS, and run: python manage.py migrate',
                id="mailrail.W009",
            )


def _check_tenants() -> Iterable[CheckMessage]:
    """Check the settings of django-tenants (its manual: Installation, Multi-type tenants)."""
    for setting, entries in _apps_of_tenants():
        for app in ("mailrail", "mailrail.mail", "mailrail.invitations"):
            if any(entry == app or str(entry).startswith(f"{app}.apps.") for entry in entries):
                yield Error(
                    f"{setting} names {app!r}: workers look into the tables of the shared schema, so they would "
                    "never find what is written into those of a tenant.",
                    hint="Name it in the apps of the shared schema alone, which the search_path of every tenant has, "
                    "too.",
                    id="mailrail.E009",
                )


def _apps_of_tenants() -> Iterable[tuple[str, Iterable[Any]]]:
    yield "TENANT_APPS", getattr(django_settings, "TENANT_APPS", None) or ()
    types = getattr(django_settings, "TENANT_TYPES", None)
    shared = getattr(django_settings, "PUBLIC_SCHEMA_NAME", "public")
    for name, options in types.items() if isinstance(types, Mapping) else ():
        if name != shared and isinstance(options, Mapping):
            yield f"TENANT_TYPES[{name!r}]['APPS']", options.get("APPS") or ()


@register(Tags.database)
@read_for_checks()
def check_sqlite(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check how the database layer's SQLite file is opened. This reads the file, so it needs ``--database``."""
    used = {layer.using for layer in buildable().values() if layer.joins_transactions} & set(databases or ())
    return [message for using in sorted(used) for message in _check_sqlite(using)]


def _check_sqlite(using: str) -> Iterable[CheckMessage]:
    connection: Any = connections[using]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return
    where = f"In DATABASES[{using!r}]"
    if (connection.settings_dict["OPTIONS"].get("transaction_mode") or "").upper() != "IMMEDIATE":
        yield Warning(
            f"The database layer shares the SQLite database {using!r} with transactions that read first and write "
            "later; those fail with 'database is locked' when somebody writes in between.",
            hint=f'{where}: "OPTIONS": {{"transaction_mode": "IMMEDIATE"}}',
            id="mailrail.W002",
        )
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        [mode] = cursor.fetchone()
    if mode != "wal":
        yield Warning(
            f"The SQLite database {using!r} keeps a {mode} journal, in which readers and writers wait for each other.",
            hint=f'{where}: "OPTIONS": {{"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}}',
            id="mailrail.W003",
        )
