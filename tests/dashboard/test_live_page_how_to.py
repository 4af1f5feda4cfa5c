"""The how-to sets the live page up."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from channels.testing import WebsocketCommunicator

from mailrail.conf import build
from mailrail.redaction import redacted

from ..processes import ROOT

PAGE = (ROOT / "docs/how-to/live-page.md").read_text()
APPS, URLS, ASGI, REDACT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(block: str, **names: Any) -> dict[str, Any]:
    exec(block, names)
    return names


def test_the_app_stands_before_the_admin() -> None:
    apps = run(APPS, INSTALLED_APPS=["django.contrib.admin"])["INSTALLED_APPS"]
    assert apps == ["mailrail", "mailrail.dashboard", "django.contrib.admin"]


def test_the_urls_and_the_route_of_the_websocket_are_in_the_same_place() -> None:
    [pattern] = run(URLS, urlpatterns=[])["urlpatterns"]
    application = run(ASGI)["application"]
    assert pattern.pattern.match("mailrail/data/")

    async def refused() -> Any:
        return await WebsocketCommunicator(application, "/mailrail/live/").connect(30)

    assert asyncio.run(refused()) == (False, 1000)  # it is there, and refuses who has no origin


def test_the_keys_are_read(settings: Any) -> None:
    settings.MAILRAIL = run(REDACT)["MAILRAIL"]
    assert build(settings.MAILRAIL).redact[-1] == "iban"
    assert redacted({"iban": 1, "name": 2}) == {"iban": "[redacted]", "name": 2}
