"""Define pytest fixtures. Every project's tests load this plugin, so it reads no settings before a fixture is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def mailrail() -> Any:
    """Return ``mailrail.testing`` on the project's layer: ``mailrail.drain()``, ``.sent("…")``, ``.advance(60)``.

    With the database layer, the test needs pytest-django's ``db``, too.
    """
    from mailrail import testing

    return testing


@pytest.fixture
def mailrail_memory(settings: Any) -> Any:
    """Return ``mailrail.testing`` on an in-memory layer: fast, and gone after the test."""
    from mailrail import testing
    from mailrail.layers import default_alias

    configured = dict(getattr(settings, "CHANNEL_LAYERS", None) or {})
    routing = configured.get(default_alias(), {}).get("CONFIG", {}).get("routing")
    memory = {"BACKEND": "mailrail.layers.InMemoryChannelLayer", "CONFIG": {"routing": routing}}
    settings.CHANNEL_LAYERS = {**configured, default_alias(): memory}
    return testing


@pytest.fixture
def mailrail_mail() -> Iterator[Any]:
    """Queue Django's mail in ``mailrail.testing``: ``mailrail_mail.deliver()`` puts it into ``mail.outbox``.

    The records of email are in the database, so the test needs pytest-django's ``db``.
    """
    from mailrail import testing

    with testing.mail_queue():
        yield testing
