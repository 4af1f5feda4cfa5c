"""Read what an action of the live page is about: which units, and which permissions it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.apps import apps
from django.http import QueryDict
from django.utils.translation import gettext

from mailrail.errors import MailrailError
from mailrail.layers import durable_aliases, get_layer
from mailrail.messages import check_channel_name
from mailrail.storable import storable

from .operation_kinds import layer_of

MAX_TARGETS = 10_000
MAX_IDS = 1_000
MAX_AT_ONCE = 100
"""Channels, mailers or messages on which the request itself acts."""

OF_MESSAGES = {"requeue": "dead", "discard": "dead", "cancel": "waiting"}
STATUSES = {
    "requeue": ("failed", "partial"),
    "send_now": ("deferred",),
    "cancel": ("queued", "deferred", "held"),
}
"""Statuses of emails by action; the first is meant if the form names none."""
EMAIL_PERMISSIONS = {"requeue": "resend_email", "send_now": "resend_email", "cancel": "cancel_email"}


class Refused(Exception):
    """The action is not carried out, for the reason that the text gives; ``status``: of HTTP."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Units:
    """Hold what an operation is about. ``is_small``: the request itself may carry it out."""

    kind: str
    units: list[Any]
    permissions: Sequence[str]
    filters: dict[str, Any] = field(default_factory=dict)
    is_small: bool = False
    total: int | None = None


def units_of(form: QueryDict) -> Units:
    """Return what a form is about. Raises ``Refused``."""
    action, section = form.get("action", ""), form.get("section", "")
    targets = list(dict.fromkeys(map(storable, form.getlist("target"))))
    if not section:
        section = "channels" if form.get("scope") == "all" or any("/" in key for key in targets) else "mail"
    try:
        if section == "mail":
            return _of_mail(form, action, targets)
        return _of_channels(form, action, _channels(form, targets))
    except (MailrailError, ValueError) as error:
        raise Refused(str(error)) from error


# -- channels and their messages ---------------------------------------------------------------------------------------


def _channels(form: QueryDict, targets: list[str]) -> list[list[Any]]:
    """Return layers and channels: of the keys, or all whose key contains the search, as the page does."""
    if form.get("scope") == "all" and not targets:
        text = form.get("q", "").strip().lower()
        keys = [f"{alias}/{name}" for alias in durable_aliases() for name in get_layer(alias).list_channels()]
        targets = [key for key in keys if text in key.lower()]
    channels = [list(key.rpartition("/")[::2]) for key in targets]
    if not channels or len(channels) > MAX_TARGETS:
        raise Refused(gettext("Choose what it is about: nothing was chosen, or too much."))
    for alias, name in channels:
        check_channel_name(name)
        if alias not in durable_aliases():
            raise Refused(gettext("There is no layer “%(name)s”.") % {"name": alias})
    return channels


def _of_channels(form: QueryDict, action: str, channels: list[list[Any]]) -> Units:
    if action in ("pause", "resume"):
        of_mail = any(name.startswith("mailrail.mail.") for _, name in channels)
        permissions = ["mailrail_mail.pause_mailerstate"] * of_mail
        return Units("channels", channels, permissions, is_small=len(channels) <= MAX_AT_ONCE)
    if action not in OF_MESSAGES:
        raise Refused(gettext("There is no such action."))
    kind, permissions = OF_MESSAGES[action], [f"mailrail.{action}_message"]
    if ids := _ids(form):
        [[alias, name]] = channels if len(channels) == 1 else [["", ""]]
        if not name:
            raise Refused(gettext("Messages are chosen on one channel at a time."))
        return Units(
            kind, [[alias, name, ids]], permissions, is_small=len(ids) <= MAX_AT_ONCE, total=len(ids)
        )
    filters = _message_filters(form, kind)
    return Units(kind, channels, permissions, filters, total=None if filters else _count(kind, channels))


def _ids(form: QueryDict) -> list[str]:
    ids = [str(UUID(text)) for given in form.getlist("ids") for text in given.replace(",", " ").split()]
    if len(ids) > MAX_IDS:
        raise Refused(gettext("Choose fewer messages, or all that a filter means."))
    return list(dict.fromkeys(ids))


def _message_filters(form: QueryDict, kind: str) -> dict[str, Any]:
    if kind == "dead":
        return {"error_class": storable(form.get("error_class", ""))} if "error_class" in form else {}
    state = form.get("state", "")
    if state not in ("", "ready", "scheduled"):
        raise Refused(gettext("Only messages that are ready or scheduled can be cancelled."))
    return {"state": state} if state else {}


def _count(kind: str, channels: list[list[Any]]) -> int:
    """Count what there is now, for the progress: estimates above what the layer counts."""
    total, stats = 0, {alias: get_layer(alias).stats() for alias in {alias for alias, _ in channels}}
    for alias, name in channels:
        of_layer = (
            stats[alias] if layer_of(alias, name) is get_layer(alias) else layer_of(alias, name).stats()
        )
        if (found := of_layer.get(name)) is not None:
            total += found.dead if kind == "dead" else found.ready + found.scheduled
    return total


# -- mailers and their emails ------------------------------------------------------------------------------------------


def _of_mail(form: QueryDict, action: str, targets: list[str]) -> Units:
    if not apps.is_installed("mailrail.mail"):
        raise Refused(gettext("There is no such action."))
    from mailrail.mail.mailers.config import alias_of, delivering

    if form.get("scope") == "all" and not targets:
        targets = delivering()
    if not targets or len(targets) > MAX_TARGETS:
        raise Refused(gettext("Choose what it is about: nothing was chosen, or too much."))
    aliases = [alias_of("" if key == "default" and "default" not in delivering() else key) for key in targets]
    if action in ("pause", "resume"):
        permissions = ["mailrail_mail.pause_mailerstate"]
        return Units("mailers", aliases, permissions, is_small=len(aliases) <= MAX_AT_ONCE)
    if action not in STATUSES:
        raise Refused(gettext("There is no such action."))
    status = form.get("status", "") or STATUSES[action][0]
    if status not in STATUSES[action]:
        raise Refused(gettext("Emails of this status cannot be chosen for this."))
    permission = f"mailrail_mail.{EMAIL_PERMISSIONS[action]}"
    return Units("emails", aliases, [permission], {"status": status})
