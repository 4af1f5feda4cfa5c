"""Check that the databases of the apps' records support the statements used (a system check).

mailrail.E010  an app's tables lie in a database that cannot hold them, such as MariaDB or MySQL
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, register
from django.db import DEFAULT_DB_ALIAS, connections, router

APPS = ("mailrail", "mailrail_mail", "mailrail_tasks", "mailrail_schedule", "mailrail_invitations")
_NONE = "django.db.backends.dummy"
"""The engine of a project without DATABASES; the check of the layers reports that."""
_ROUTER = """
class MailrailApart:
    apps = {{{labels}}}

    def db_for_read(self, model, **hints):
        return "{alias}" if model._meta.app_label in self.apps else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        if app_label in self.apps:
            return db == "{alias}"
        return False if db == "{alias}" else None
"""


@register()
def check_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the features of the databases that hold records or are migrated. This needs no connection."""
    installed = [config for config in apps.get_app_configs() if config.label in APPS]
    return [message for config in installed for message in _check_app(config, databases or ())]


def _check_app(config: AppConfig, databases: Sequence[str]) -> Iterable[CheckMessage]:
    for using in sorted(_databases_of(config, databases)):
        if lacking := lacks(using):
            yield Error(
                f'The tables of "{config.name}" lie in the database {using!r} ({connections[using].vendor}), which has '
                f"no {', no '.join(lacking)}.",
                hint=_hint(),
                id="mailrail.E010",
            )


def _databases_of(config: AppConfig, databases: Sequence[str]) -> set[str]:
    """Return the databases of an app's records, and those of ``default`` and ``databases`` that get its tables.

    A layer's settings decide where the core app keeps records, whatever routers say. Another check covers that.
    """
    models = list(config.get_models())
    migrated = {DEFAULT_DB_ALIAS, *databases}
    databases_found = {
        using for using in migrated for model in models if router.allow_migrate_model(using, model)
    }
    if config.label != "mailrail":
        databases_found |= {router.db_for_write(model) for model in models} | {
            router.db_for_read(model) for model in models
        }
    return {
        using
        for using in databases_found & {*connections}
        if connections[using].settings_dict["ENGINE"] != _NONE
    }


def lacks(using: str) -> list[str]:
    """Return the features, in the words of SQL, that the apps' statements need and this database lacks."""
    features = connections[using].features
    named = {
        "unique indexes of a part of the rows": features.supports_partial_indexes,
        "INSERT … ON CONFLICT": features.supports_update_conflicts_with_target,
        # SQLite locks no rows, as it has one writer, so Django leaves these words out.
        "SELECT … FOR NO KEY UPDATE": features.has_select_for_no_key_update
        or not features.has_select_for_update,
    }
    return [name for name, has in named.items() if not has]


def _hint() -> str:
    alias, users = "messages", ""
    labels = [name.label for name in apps.get_app_configs() if name.label in APPS]
    if "mailrail_invitations" in labels:
        labels += dict.fromkeys([get_user_model()._meta.app_label, "auth", "contenttypes"])
        users = (
            " Invitations point at users, whose tables lie with them; so do those of other apps that point at "
            "users, such as admin."
        )
    router = _ROUTER.format(alias=alias, labels=", ".join(f'"{name}"' for name in labels))
    return (
        f"PostgreSQL and SQLite can: add one to DATABASES as {alias!r}, and name this router in DATABASE_ROUTERS."
        f"{users}\n{router}\nA database layer needs CONFIG = {{'using': {alias!r}}}. "
        f"Then run: python manage.py migrate --database {alias}"
    )
