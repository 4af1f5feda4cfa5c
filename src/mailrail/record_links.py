"""Link the admin's page of a message to the record that the message is about.

The content of such a message has the record's primary key under ``"id"``: ``{"id": 7}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

_models: dict[str, type[Model]] = {}


def link_records(channel: str, model: type[Model]) -> None:
    """Link the admin's page of a message to its record.

    ``channel``: whose messages have the primary key of a row of ``model`` under ``"id"``; it may be a pattern,
    ``"tenant.*"``. Call it where the admin of that model is registered.
    """
    _models[channel] = model


def link_of(channel: str, content: Any, request: HttpRequest, site: AdminSite) -> tuple[str, str] | None:
    """Return the name and the URL of the record's page; ``None`` without one, or if this user may not see it."""
    model = _models.get(channel) or next((_models[name] for name in _models if _matches(channel, name)), None)
    key = content.get("id") if isinstance(content, Mapping) else None
    if model is None or key is None or not site.is_registered(model):
        return None
    if not site.get_model_admin(model).has_view_permission(request) or not _is_there(model, key):
        return None
    options = model._meta
    try:
        url = reverse(f"{site.name}:{options.app_label}_{options.model_name}_change", args=[quote(key)])
    except NoReverseMatch:  # this admin has no such page
        return None
    return f"{options.verbose_name} {key}", url


def _matches(channel: str, name: str) -> bool:
    return name.endswith(".*") and channel.startswith(name[:-1])


def _is_there(model: type[Model], key: Any) -> bool:
    try:
        return model._base_manager.filter(pk=key).exists()
    except (TypeError, ValueError, ValidationError):  # no key of this model
        return False
