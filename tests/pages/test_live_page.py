"""The live page in a browser: what it shows, keeps and says while its server answers, changes, stops and comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import django
import pytest
from playwright.sync_api import Page

from ..chromium import Windows, axe, expect
from . import live_page
from .conftest import STRICT
from .live_page import Said, cell, channel, well
from .test_every_page import SCHEMES, assert_it_fits

WITHIN_MS = 3500
"""What the page promises, of which two seconds are the wait between two polls."""

HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def said(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Said:
    settings.ROOT_URLCONF = live_page.__name__
    monkeypatch.setattr(live_page, "said", said := Said())
    return said


@pytest.fixture
def page(windows: Windows, said: Said) -> Page:
    page = windows.open()
    page.goto("/live/")
    expect(page.locator("#answered")).not_to_be_empty()
    return page


def row(page: Page, key: str) -> Any:
    return page.locator(f'tr[data-key="{key}"]')


def rows(page: Page, section: str) -> list[str]:
    keys: list[str] = page.evaluate(
        "(name) => [...document.querySelectorAll(`#${name} tbody tr`)].map((row) => row.dataset.key)", section
    )
    return keys


def change(said: Said, make: Callable[[dict[str, Any]], None]) -> None:
    changed = copy.deepcopy(said.page)
    make(changed)
    said.page = changed


def test_it_is_drawn_by_the_server_and_needs_no_script(windows: Windows, said: Said) -> None:
    page = windows.open(java_script_enabled=False)
    page.goto("/live/")
    expect(page.locator("#health")).to_contain_text("3 things are wrong, since 14:02")
    expect(row(page, "default").locator("[data-column=waiting]")).to_have_text("≈12,480")
    expect(page.locator(".notice").first).to_contain_text("Reload it")
    assert said.asked == []


@pytest.mark.skipif(django.VERSION < (6, 0), reason="needs Django's nonces")
def test_a_policy_that_allows_nonces_alone_allows_its_scripts_and_styles(
    windows: Windows, said: Said, settings: Any
) -> None:
    from django.utils.csp import CSP

    nonces = {"style-src": [CSP.NONCE], "script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC]}
    settings.SECURE_CSP = {**STRICT, **nonces}
    page = windows.open()
    page.goto("/live/")
    expect(page.locator("#answered")).not_to_be_empty()
    expect(page.locator("header")).to_have_css("position", "sticky")


@pytest.mark.parametrize("state", ["outage", "well"])
def test_it_has_no_fault_that_axe_finds_and_fits_dark_and_light(page: Page, said: Said, state: str) -> None:
    said.page = getattr(live_page, state)()
    expect(page.locator("#verdict")).to_have_text(said.page["health"]["text"])
    faults = []
    for width in (1440, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            faults += axe(page)
    assert not faults, "\n".join(faults)
    assert_it_fits(page)


def test_a_number_changes_in_place_and_whatever_is_chosen_or_focused_stays(page: Page, said: Said) -> None:
    button = row(page, "default/send-invite").get_by_role("button", name="Resume")
    button.focus()
    box = row(page, "default/crm-sync").get_by_role("checkbox")
    box.check()
    ready = row(page, "default/send-invite").locator("[data-column=ready]")
    ready.evaluate("(cell) => getSelection().selectAllChildren(cell)")
    before = ready.bounding_box()

    def grow(changed: dict[str, Any]) -> None:
        listed = changed["sections"]["channels"]["rows"]
        listed[1]["cells"]["dead"] = cell("1,000,000", n=1_000_000)
        listed.reverse()
        listed.insert(0, channel("new", "bad", ready=1))

    change(said, grow)
    dead = row(page, "default/send-invite").locator("[data-column=dead]")
    expect(dead).to_have_text("1,000,000", timeout=WITHIN_MS)
    expect(dead).to_have_class("number changed")
    assert ready.bounding_box() == before, "columns and rows in use stay where they are"
    assert page.evaluate("getSelection().toString()").strip() == "512"
    assert box.is_checked() and "default/new" in rows(page, "channels")
    expect(dead).to_have_class("number")


def test_rows_come_in_the_order_of_need_when_nobody_is_about_to_press_one(page: Page, said: Said) -> None:
    change(said, lambda changed: changed["sections"]["channels"]["rows"].reverse())
    wanted = [listed["key"] for listed in said.page["sections"]["channels"]["rows"]]
    expect(page.locator("#channels tbody tr").first).to_have_attribute("data-key", wanted[0])
    assert rows(page, "channels") == wanted


def test_what_has_not_changed_is_not_sent_again_and_a_hidden_tab_asks_nothing(page: Page, said: Said) -> None:
    with page.expect_response(lambda response: response.status == 304):
        pass
    page.evaluate(HIDE, True)
    page.evaluate("() => new Promise(requestIdleCallback)")
    asked = len(said.asked)
    waits = page.evaluate("connection.timer && new Promise((resolve) => setTimeout(resolve, 2500))")
    assert waits is None and len(said.asked) == asked
    said.page = well()
    page.evaluate(HIDE, False)
    expect(page.locator("#verdict")).to_have_text("All is well", timeout=1000)


@pytest.mark.parametrize(
    ("status", "text"), [(401, "Your session is over."), (403, "You may not look at this page any more.")]
)
def test_no_session_and_no_permission_are_said_and_nothing_more_is_asked(
    windows: Windows, page: Page, said: Said, status: int, text: str
) -> None:
    said.status = status
    expect(page.locator("#away")).to_contain_text(text)
    assert page.get_by_role("link", name="Log in again").is_visible() == (status == 401)
    assert page.evaluate("connection.isOver")
    windows.forgive(f"status of {status}")


def test_texts_of_others_are_texts(page: Page, said: Said) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>{name}"

    def poison(changed: dict[str, Any]) -> None:
        problem = {"key": evil, "text": evil, "since": evil, "href": ""}
        changed["health"] = {"state": "bad", "text": evil, "problems": [problem, {**problem, "key": "other"}]}
        for content in changed["sections"].values():
            for listed in content["rows"]:
                listed["key"] = f"{listed['key']}{evil}"
                listed["cells"] = {name: cell(evil, i=evil) for name in listed["cells"]}

    change(said, poison)
    expect(page.locator("#verdict")).to_have_text(evil)
    page.reload()
    expect(page.locator("#answered")).not_to_be_empty()
    row(page, f"default/send-invite{evil}").get_by_role("button", name="Show the charts").click()
    row(page, f"default/send-invite{evil}").get_by_role("button", name="Resume").click()
    expect(page.locator("#dialog-target")).to_have_text(evil)
    expect(page.locator("#dialog-effect")).to_contain_text(evil)
    assert page.locator("img, td script, li script").count() == 0


def test_by_keyboard_alone_a_channel_is_found_paused_for_a_reason_and_told(
    windows: Windows, page: Page, said: Said
) -> None:
    walk_to(page, page.get_by_role("searchbox"))
    page.keyboard.type("import")
    page.wait_for_url("**/live/?q=import")
    expect(page.locator("#answered")).not_to_be_empty()
    walk_to(page, page.get_by_role("button", name="Pause: import-photos"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Pause")
    expect(dialog).to_contain_text("Workers claim no more messages of import-photos until somebody resumes.")
    said.answer = (400, {"text": "Say why."})
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("Say why.")
    windows.forgive("status of 400")
    page.keyboard.type("the disk is full")
    said.answer = (200, {"text": "import-photos is paused.", "operation": None})
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_have_text("import-photos is paused.")
    expect(dialog).to_be_hidden()
    assert {"q": "import"} in said.asked
    posted = {name: said.posted[-1][name] for name in ("action", "scope", "target", "reason")}
    assert posted == {
        "action": ["pause"], "scope": ["one"], "target": ["default/import-photos"], "reason": ["the disk is full"],
    }  # fmt: skip


def walk_to(page: Page, target: Any) -> None:
    """Press Tab until the target has the focus; whatever has it on the way shows that it has."""
    for _ in range(60):
        page.keyboard.press("Tab")
        has_focus, outline = target.evaluate(
            "(element) => [element, document.activeElement].map((one) => one === document.activeElement"
            " && getComputedStyle(one).outlineStyle)"
        )
        assert outline == "solid"
        if has_focus:
            return
    pytest.fail(f"Tab does not lead to {target}")


def test_rows_are_chosen_pages_turned_and_lines_drawn_with_their_tables(page: Page, said: Said) -> None:
    for name in ("import-photos", "send-invite"):
        page.get_by_role("checkbox", name=f"Choose {name}").check()
    chosen = page.get_by_role("region", name="Chosen rows")
    expect(chosen).to_contain_text("2 chosen")
    chosen.get_by_role("button", name="Requeue").click()
    page.get_by_role("dialog").get_by_role("button", name="Requeue").click()
    expect(page.locator("#result")).to_have_text("Done.")
    assert said.posted[-1]["target"] == ["default/import-photos", "default/send-invite"]
    assert said.posted[-1]["scope"] == ["chosen"]
    expect(chosen).to_be_hidden()
    change(said, lambda shown: shown["sections"]["channels"].update(q="import"))
    expect(page.locator("#channels")).to_have_attribute("data-q", "import", timeout=WITHIN_MS)
    page.locator("#channels").get_by_role("checkbox", name="Choose all on this page").check()
    chosen.get_by_role("button", name="Choose all 1,034").click()
    chosen.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("dialog")).to_contain_text("Workers claim no more messages of 1,034 channels")
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(chosen).to_be_hidden()
    posted = said.posted[-1]
    assert (posted["scope"], posted["section"], posted["q"]) == (["all"], ["channels"], ["import"])
    assert "target" not in posted and float(posted["at"][0]) == said.page["at"]

    page.get_by_role("link", name="Next", exact=True).click()
    page.wait_for_url("**/live/?page=2")
    page.go_back()
    page.wait_for_url("**/live/")

    row(page, "default/import-photos").get_by_role("button", name="Show the charts").click()
    page.get_by_label("Day", exact=True).check()
    chart = page.locator(".chart").first
    chart.get_by_text("As a table").click()
    expect(chart.locator("tbody tr")).to_have_count(96)
    assert chart.locator("svg path").count() == 3
    assert said.asked[-1] == {"series": "channel:default/import-photos", "span": "day"}
    page.reload()
    expect(page.get_by_label("Of", exact=True)).to_have_value("channel:default/import-photos")
