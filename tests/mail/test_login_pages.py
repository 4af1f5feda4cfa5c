"""The pages on tokens and on an authority of one's own do what they say, and the errors name them."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from django.core.mail import EmailMessage

from mailrail.mail.smtp import close_pools
from mailrail.mail.smtp.errors import CERTIFICATE, AuthenticationRefused

from ..processes import ROOT
from ..smtp_server import USER, ScriptedServer
from .test_smtp_backend import backend

pytestmark = pytest.mark.usefixtures("fresh_connections")

PAGES = {name: (ROOT / f"docs/how-to/{name}.md").read_text() for name in ("login-by-token", "private-ca")}


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL)


class TokenService(HTTPServer):
    """Gives tokens that are numbered, each for so many seconds."""

    def __init__(self, lifetimes: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.lifetimes, self.asked = lifetimes, list[dict[str, list[str]]]()


class Answering(BaseHTTPRequestHandler):
    server: TokenService

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked.append(form)
        nth = len(self.server.asked)
        is_known = form["refresh_token"] == ["refresh"]
        good = {"access_token": f"token-{nth}", "expires_in": self.server.lifetimes[nth - 1]}
        self.send_response(200 if is_known else 400)
        self.end_headers()
        self.wfile.write(json.dumps(good if is_known else {"error": "invalid_grant"}).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenService]:
    """The first token is about to expire when it is given, the second one lives for an hour."""
    with TokenService([60, 3600]) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        monkeypatch.setenv("TOKEN_URL", f"http://127.0.0.1:{service.server_port}/token")
        for name in ("CLIENT_ID", "CLIENT_SECRET"):
            monkeypatch.setenv(name, name)
        monkeypatch.setenv("REFRESH_TOKEN", "refresh")
        yield service
        service.shutdown()
        thread.join()


def send(kind: Any, server: ScriptedServer, **options: Any) -> int:
    used = backend(server, kind, host="localhost", **options)
    sent: int = used.send_messages([EmailMessage("Hello", "A body.", "a@example.com", ["b@example.com"])])
    close_pools()  # the next one logs in anew
    return sent


def test_the_token_is_renewed_when_the_server_takes_the_old_one_no_more(service: TokenService) -> None:
    exec(blocks("login-by-token")[0], page := dict[str, Any](__name__="shop.mail"))
    with ScriptedServer(extensions=("AUTH XOAUTH2",), token="token-1") as server:
        assert send(page["ByToken"], server, username=USER) == 1
        server.token = "token-2"
        assert send(page["ByToken"], server, username=USER) == 1
        assert send(page["ByToken"], server, username=USER) == 1
        assert server.count("AUTH") == 3 and len(server.mails) == 3
    assert [form["grant_type"] for form in service.asked] == [["refresh_token"]] * 2


def test_a_service_that_gives_no_token_is_told_in_its_words(
    service: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFRESH_TOKEN", "revoked")
    exec(blocks("login-by-token")[0], page := dict[str, Any](__name__="shop.mail"))
    with ScriptedServer(extensions=("AUTH XOAUTH2",)) as server, pytest.raises(PermissionError) as caught:
        send(page["ByToken"], server, username=USER)
    assert 'token() raised PermissionError: {"error": "invalid_grant"}' in caught.value.__notes__[0]


def test_the_authority_of_the_page_is_trusted_and_no_other(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings, module = (
        code.replace("/etc/ssl/example-ca.pem", str(tmp_path / "ca.pem")) for code in blocks("private-ca")
    )
    exec(settings, said := dict[str, Any]())
    exec(module, page := dict[str, Any](__name__="shop.mail"))
    by_settings = said["MAILERS"]["smtp"]["OPTIONS"]["ssl_context"]
    for signing in (authority, other):
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        signing.issue_cert("localhost").configure_cert(serving)
        with ScriptedServer(tls=serving) as server:
            if signing is authority:
                assert send(page["Inside"], server, use_tls=True) == 1
                assert page["context"].cert_store_stats() == by_settings.cert_store_stats()
            else:
                with pytest.raises(ssl.SSLCertVerificationError) as caught:
                    send(page["Inside"], server, use_tls=True)
                assert CERTIFICATE in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("advice", "page"), [(AuthenticationRefused.advice, "login-by-token"), (CERTIFICATE, "private-ca")]
)
def test_the_errors_name_the_pages(advice: str, page: str) -> None:
    [title] = re.findall(r"how-to '(.+?)'", advice)
    assert PAGES[page].startswith(f"# {title}")
