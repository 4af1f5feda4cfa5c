"""The pages under a strict policy for content; and that what breaks it would be seen."""

from __future__ import annotations

import django
import pytest
from django.utils import timezone

from mailrail.invitations.models import Invitation

from ..chromium import expect
from ..ports import free_port
from .catalogue import Stage, inviting, progress

POSTED_WITH = {"connect-src": ["'self'"], "form-action": ["'self'"], "base-uri": ["'none'"]}


@pytest.mark.skipif(django.VERSION < (6, 0), reason="needs Django's nonces")
def test_nonces_alone_open_the_policy(stage: Stage) -> None:
    from django.utils.csp import CSP

    stage.settings.SECURE_CSP = {
        "default-src": [CSP.NONE],
        "style-src": [CSP.NONCE],
        "script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC],
        **POSTED_WITH,
    }
    progress(stage)
    expect(stage.page.locator("main")).to_have_css("background-color", "rgb(255, 255, 255)")
    Invitation.objects.update(sent=timezone.now())
    expect(stage.page.get_by_text("It has ended.")).to_be_attached()  # the script has looked again


def test_without_a_nonce_there_is_no_attribute_for_it(stage: Stage) -> None:
    [template] = stage.settings.TEMPLATES
    processors = template["OPTIONS"]["context_processors"]
    options = {
        **template["OPTIONS"],
        "context_processors": [processor for processor in processors if "csp" not in processor],
    }
    stage.settings.TEMPLATES = [{**template, "OPTIONS": options}]
    progress(stage)
    assert "nonce" not in stage.page.content()


def test_a_request_to_another_site_would_be_seen(stage: Stage) -> None:
    stage.settings.SECURE_CSP = {}
    inviting(stage)
    elsewhere = f"http://127.0.0.1:{free_port()}/elsewhere"
    with stage.page.expect_console_message(lambda message: message.location["url"] == elsewhere):
        stage.page.evaluate("(url) => fetch(url).catch(() => null)", elsewhere)
    stage.windows.forgive(f"request: {elsewhere}")
    stage.windows.forgive(f"({elsewhere})")  # nobody listens there


def test_what_breaks_the_policy_would_be_seen(stage: Stage) -> None:
    inviting(stage)
    page = stage.page
    page.evaluate("document.body.setAttribute('style', 'margin: 0')")
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), { text: '1' }))")
    page.evaluate("fetch('http://localhost:1/elsewhere').catch(() => null)")
    page.evaluate("setTimeout(() => { throw new Error('a fault') })")
    with page.expect_console_message(lambda message: message.text == "the last"):
        page.evaluate("console.error('the last')")
    for what in (
        "policy: style-src-attr inline",
        "policy: script-src-elem inline",
        "policy: connect-src http://localhost:1/elsewhere",
        "script: a fault",
        "console: the last",
    ):
        stage.windows.forgive(what)
    stage.windows.forgive("console: ")  # the browser's own words about the same
