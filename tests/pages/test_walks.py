"""What people do with the pages: by keyboard alone, without JavaScript, and while a mailing runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.utils import timezone
from playwright.sync_api import Locator, Page

from mailrail.invitations import invitation_sent
from mailrail.invitations.bulk import confirm
from mailrail.invitations.models import Invitation
from mailrail.testing import drain

from ..chromium import expect
from ..processes import Ledger, workers
from .catalogue import (
    TWO_PASSWORDS,
    Stage,
    inviting,
    inviting_beyond_the_quota,
    inviting_with_a_wrong_address,
    signing_up,
)

HAS_FOCUS = "(element) => element === document.activeElement"


FOCUS = """() => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return [document.activeElement.outerHTML, outlineStyle, parseFloat(outlineWidth)];
}"""


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until it is there, unless it is; all the way, everybody can see where that is."""
    for _ in range(20):
        element, style, width = page.evaluate(FOCUS)
        if not element.startswith("<body"):  # nowhere yet
            assert style == "solid" and width >= 2, element
        if target.evaluate(HAS_FOCUS):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not lead to {target}")


def press(page: Page, role: Any, name: str) -> None:
    tab_to(page, page.get_by_role(role, name=name, exact=True).first)
    page.keyboard.press("Enter")


def write(page: Page, label: str, text: str) -> None:
    tab_to(page, page.get_by_label(label, exact=True))
    page.keyboard.type(text)


def test_from_inviting_to_accepting_by_keyboard_alone(stage: Stage, mailoutbox: list[EmailMessage]) -> None:
    stage.open("/invites/", stage.ada)
    press(page := stage.page, "link", "Invite one person")
    expect(page.get_by_role("heading", level=1)).to_have_text("Invite one person")
    write(page, "Email address:", "guest@example.com")
    write(page, "Message:", "Come and see.")
    press(page, "button", "Send the invitation")
    expect(page.get_by_role("status")).to_have_text("The invitation for guest@example.com is on its way.")

    drain()
    [email] = mailoutbox
    [link] = re.findall(rf"{stage.windows.site}\S+", str(email.body))

    stage.open(link)
    press(page := stage.page, "button", "Sign up")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign up")
    write(page, "Username:", "guest")
    write(page, "Password:", "a long word")
    write(page, "Password confirmation:", "a long word")
    press(page, "button", "Sign up and accept the invitation")
    expect(page.get_by_role("status")).to_contain_text("The invitation was accepted on")
    assert Invitation.objects.get().accepted_by == User.objects.get(username="guest")


def test_the_first_tab_leads_past_the_navigation(stage: Stage) -> None:
    inviting(stage)
    page = stage.page
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    assert skip.evaluate(HAS_FOCUS)
    box = skip.bounding_box()
    assert box is not None and box["x"] >= 0 and box["y"] >= 0 and box["width"] > 100 and box["height"] > 20
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.get_by_label("Email address").evaluate(HAS_FOCUS)


def test_the_navigation_says_where_one_is(stage: Stage) -> None:
    inviting(stage)
    links = stage.page.get_by_role("navigation", name="Invitations").get_by_role("link")
    current = [link.get_attribute("aria-current") for link in links.all()]
    assert current == [None, "page", None]


def test_what_is_wrong_is_said_first_and_leads_to_its_field(stage: Stage) -> None:
    inviting_with_a_wrong_address(stage)
    page = stage.page
    expect(page.get_by_role("group", name="There is a problem")).to_be_focused()
    assert page.title() == "Error: Invite one person"
    press(page, "link", "Email address: Enter a valid email address.")
    field = page.get_by_label("Email address")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description("Enter a valid email address.")
    page.keyboard.press("Control+a")
    page.keyboard.type("guest@example.com")
    press(page, "button", "Send the invitation")
    expect(page.get_by_role("status")).to_be_visible()


def test_what_is_wrong_comes_before_the_field_that_would_have_the_focus(stage: Stage) -> None:
    signing_up(stage)
    expect(stage.page.get_by_label("Username")).to_be_focused()
    stage.submit("Sign up and accept the invitation", **TWO_PASSWORDS)
    expect(stage.page.get_by_role("group", name="There is a problem")).to_be_focused()


def test_what_is_wrong_with_no_field_is_said_as_well(stage: Stage) -> None:
    inviting_beyond_the_quota(stage)
    problem = stage.page.get_by_role("group", name="There is a problem")
    expect(problem).to_be_focused()
    expect(problem).to_contain_text("You can send 1 invitations within 24 hours")


def test_without_javascript_a_list_is_sent_and_its_page_reloads_itself(stage: Stage, ledger: Ledger) -> None:
    page = stage.windows.open(stage.ada, java_script_enabled=False)
    page.goto("/invites/bulk/")
    page.get_by_label("Email addresses").fill("one@example.com\ntwo@example.com")
    page.get_by_role("button", name="Look through the list").click()
    page.get_by_role("button", name="Send the invitations").click()
    bar = page.get_by_role("progressbar", name="Sent")
    expect(bar).to_have_attribute("aria-valuenow", "0")
    expect(page.get_by_role("link", name="Look again")).to_be_visible()
    with workers(ledger, "--only-channels", "send-invite"):
        expect(page.get_by_text("It has ended.")).to_be_visible()
    expect(bar).to_have_attribute("aria-valuenow", "100")
    expect(page.get_by_role("link", name="Look again")).to_have_count(0)


@pytest.fixture
def mailing(stage: Stage) -> Page:
    """The page of a mailing to eight, none of which has been sent; its clock can be moved."""
    listed = stage.list_to_confirm(*(f"guest-{number}@example.com" for number in range(8)))
    confirm(listed)
    page = stage.page = stage.windows.open(stage.ada, fresh=True)
    page.clock.install()
    page.goto(f"/invites/bulk/{listed.pk}/progress/")
    return page


def test_the_bar_moves_while_invitations_are_sent(mailing: Page, elsewhere: Callable[..., Any]) -> None:
    gate, sent = Event(), []

    def hold_the_second(invitation: Invitation, **_: Any) -> None:
        sent.append(invitation.pk)
        assert len(sent) != 2 or gate.wait(60)

    counts, spoken = mailing.locator('[data-part="counts"]'), mailing.get_by_role("status")
    expect(counts).to_have_text("0 of 8 · 8 waiting")
    invitation_sent.connect(hold_the_second)
    try:
        drained = elsewhere.submit(drain)  # type: ignore[attr-defined]
        until_it_shows(mailing, "2 of 8")
        expect(spoken).to_have_text("At least 25 percent are done", use_inner_text=True)
        gate.set()
        drained.result(60)
    finally:
        gate.set()
        invitation_sent.disconnect(hold_the_second)
    until_it_shows(mailing, "8 of 8")
    expect(spoken).to_contain_text("It has ended.", use_inner_text=True)
    expect(mailing.get_by_role("progressbar", name="Sent")).to_have_attribute("aria-valuenow", "100")
    asked: list[str] = []
    mailing.on("request", lambda request: asked.append(request.url))
    mailing.clock.run_for(60_000)
    assert asked == []


def until_it_shows(page: Page, text: str) -> None:
    """Let the page's seconds pass until the numbers say it: it looks at least every ten seconds."""
    for _ in range(60):
        with page.expect_response("**/progress/") as asked:
            page.clock.run_for(10_000)
        if text in asked.value.text():
            break
    expect(page.locator('[data-part="counts"]')).to_contain_text(text)


def test_failures_are_named_in_a_list_that_stays_open_and_keeps_the_focus(mailing: Page) -> None:
    failures = mailing.get_by_role("group").filter(has_text="What has failed")
    expect(failures).to_have_count(0)
    first, second = Invitation.objects.order_by("pk")[:2]
    Invitation.objects.filter(pk=first.pk).update(failed_at=timezone.now())
    until_it_shows(mailing, "1 failed")
    failures.locator("summary").click()
    expect(failures.get_by_text("guest-0@example.com")).to_be_visible()
    Invitation.objects.filter(pk=second.pk).update(failed_at=timezone.now())
    until_it_shows(mailing, "2 failed")
    expect(failures.get_by_text("guest-1@example.com")).to_be_visible()
    expect(failures.locator("summary")).to_be_focused()


def test_a_tab_that_nobody_sees_asks_nothing_and_looks_as_soon_as_it_is_seen(mailing: Page) -> None:
    asked: list[str] = []
    mailing.on("request", lambda request: asked.append(request.url))
    show(mailing, False)
    mailing.clock.run_for(60_000)
    assert asked == []
    with mailing.expect_response("**/progress/"):
        show(mailing, True)


def show(page: Page, is_shown: bool) -> None:
    page.evaluate(
        """(isShown) => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => !isShown });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_shown,
    )


def test_while_the_site_does_not_answer_the_page_says_so_and_tries_again(stage: Stage, mailing: Page) -> None:
    away = mailing.get_by_text("The site does not answer.")
    expect(away).to_be_hidden()
    mailing.context.set_offline(True)
    mailing.clock.run_for(1000)
    expect(away).to_be_visible()
    mailing.context.set_offline(False)
    mailing.clock.run_for(5000)
    expect(away).to_be_hidden()
    stage.windows.forgive("net::ERR_INTERNET_DISCONNECTED")


def test_who_is_logged_out_meanwhile_is_asked_to_log_in(stage: Stage, mailing: Page) -> None:
    stage.settings.LOGIN_URL = "/admin/login/"
    stage.settings.SECURE_CSP = {}  # those pages are Django's
    mailing.context.clear_cookies()
    with mailing.expect_navigation(url="**/admin/login/?next=/invites/bulk/*/progress/"):
        mailing.clock.run_for(1000)
