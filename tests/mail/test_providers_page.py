"""The settings that the page on providers has are sound, and deliver."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import django
import pytest
from django.core.mail import send_mail
from django.test.utils import override_settings

from mailrail.mail import Email, Status
from mailrail.mail.checks import check_mail, check_policies
from mailrail.mail.mailers.config import UNNAMED, open_backend, policy_of, server_of
from mailrail.mail.mailers.reply_rules import PRESETS
from mailrail.mail.smtp import EmailBackend

from ..processes import ROOT
from ..smtp_server import EXTENSIONS, PASSWORD, USER, ScriptedServer
from .conftest import work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

HAS_MAILERS = django.VERSION >= (6, 1)
PAGE = (ROOT / "docs/how-to/providers.md").read_text()
HOSTS = {
    "Gmail and Google Workspace": ("smtp.gmail.com", 587, "starttls", "gmail"),
    "Microsoft 365": ("smtp.office365.com", 587, "starttls", "microsoft365"),
    "Amazon SES": ("email-smtp.eu-central-1.amazonaws.com", 587, "starttls", "ses"),
    "QQ": ("smtp.qq.com", 465, "implicit", "qq"),
    "Exmail (Tencent)": ("smtp.exmail.qq.com", 465, "implicit", "exmail"),
    "163 (NetEase)": ("smtp.163.com", 465, "implicit", "163"),
    "Alibaba Cloud DirectMail": ("smtpdm.aliyun.com", 465, "implicit", "directmail"),
    "Tencent Cloud SES": ("smtp.qcloudmail.com", 465, "implicit", None),
}


def blocks(title: str) -> list[str]:
    [section] = [
        each for each in re.split(r"^## ", PAGE, flags=re.MULTILINE) if each.startswith(f"{title}\n")
    ]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(params=HOSTS)
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EMAIL_PASSWORD", PASSWORD)
    monkeypatch.setenv("EMAIL_USER", USER)
    title: str = request.param
    *modules, _new, _old = blocks(title)
    for code in modules:  # of the project, named in its first line
        monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
        module = ModuleType("shop.mail")
        monkeypatch.setitem(sys.modules, "shop.mail", module)
        exec(code, module.__dict__)
    return title


def settings_of(title: str) -> dict[str, Any]:
    """What the block of this Django's world says."""
    found: dict[str, Any] = {}
    exec(blocks(title)[-2 if HAS_MAILERS else -1], found)
    return {name: value for name, value in found.items() if name.isupper()}


def alias() -> str:
    return "smtp" if HAS_MAILERS else UNNAMED


def test_the_settings_are_sound_and_mean_what_the_page_says(provider: str) -> None:
    host, port, tls, preset = HOSTS[provider]
    with override_settings(**settings_of(provider)):
        assert [*check_mail(), *check_policies()] == []
        backend = open_backend(alias())
        # The class of Microsoft's part is the project's, so it is called as it is.
        server = backend.server if isinstance(backend, EmailBackend) else server_of(backend)
        assert server is not None and (server.host, server.port, server.tls) == (host, port, tls)
        assert server.username and (server.password or server.token)
        assert policy_of(alias()).replies == (PRESETS[preset] if preset else ())


def test_email_leaves_by_them(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a server here that takes the login of the page: without TLS, which is this test's alone."""
    said = settings_of(provider)
    token = sys.modules["shop.mail"] if provider == "Microsoft 365" else None
    if token is not None:
        monkeypatch.setattr(sys.modules["shop.mail"], "access_token", lambda: "tok")
    login = USER if token is not None or provider == "Amazon SES" else said["DEFAULT_FROM_EMAIL"]
    monkeypatch.setattr("tests.smtp_server.USER", login)
    with ScriptedServer(extensions=(*EXTENSIONS, "AUTH PLAIN XOAUTH2")) as server:
        if HAS_MAILERS:
            options = said["MAILERS"]["smtp"]["OPTIONS"]
            options.update(host="127.0.0.1", port=server.port, use_tls=False, use_ssl=False, username=login)
        else:
            said.update(
                EMAIL_HOST="127.0.0.1", EMAIL_PORT=server.port, EMAIL_USE_TLS=False, EMAIL_USE_SSL=False
            )
            said.update(EMAIL_HOST_USER=login)
        with override_settings(**said):
            send_mail("Hello", "A body.\n", None, ["you@example.com"])
            work()
        assert server.count("AUTH") == 1
        assert [mail.sender for mail in server.mails] == [said["DEFAULT_FROM_EMAIL"]]
    assert Email.objects.get().status == Status.SENT


def test_there_are_no_other_providers_on_the_page() -> None:
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert titles == [*HOSTS, "Try it"]
