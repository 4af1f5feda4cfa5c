"""What every page has to be, in the dark and in the light, on a desk and in a hand. Also takes the screenshots.

With ``MAILRAIL_SCREENSHOTS=folder`` each page is written there, as ``page-desktop-light.png`` and so on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from ..chromium import axe
from .catalogue import PAGES, Stage, a_list, invitation, inviting, inviting_with_a_wrong_address, preview

SIZES = {"desktop": (1280, 800), "mobile": (375, 667)}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.mark.parametrize("show", PAGES, ids=lambda show: show.__name__)
def test_a_page_has_its_status_no_fault_that_axe_finds_and_fits(
    stage: Stage, show: Callable[[Stage], int]
) -> None:
    assert show(stage) == PAGES[show]
    faults = []
    for size, (width, height) in SIZES.items():
        stage.page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            stage.page.emulate_media(color_scheme=scheme)
            faults += [f"{size}, {scheme}: {fault}" for fault in axe(stage.page)]
            keep_screenshot(stage.page, f"{show.__name__}-{size}-{scheme}")
    assert not faults, "\n".join(faults)
    assert_it_fits(stage.page)


def test_what_is_wrong_with_a_page_would_be_found(stage: Stage) -> None:
    inviting(stage)
    page = stage.page
    page.evaluate("document.querySelector('label').remove()")
    page.evaluate("document.querySelector('h1').style.color = '#ddd'")
    rules = {fault.partition(" ")[0] for fault in axe(page)}
    assert rules == {"label", "color-contrast"}
    page.evaluate("document.querySelector('main').style.width = '400px'")
    with pytest.raises(AssertionError):
        assert_it_fits(page)


def keep_screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("MAILRAIL_SCREENSHOTS"):
        page.screenshot(
            path=Path(folder).resolve() / f"{name.replace('_', '-')}.png",
            full_page=True,
            animations="disabled",
        )


def assert_it_fits(page: Page) -> None:
    """At the width of WCAG 2.2's criterion 1.4.10, Reflow, nobody has to scroll sideways."""
    page.set_viewport_size({"width": 320, "height": 568})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize(
    "show", [a_list, inviting_with_a_wrong_address, preview, invitation], ids=lambda show: show.__name__
)
def test_words_without_an_end_fit_as_well(stage: Stage, show: Callable[[Stage], int]) -> None:
    stage.guest = f"{'guest' * 12}@{'example' * 8}.example.com"
    stage.message = f"https://example.com/{'path' * 100}"
    stage.ada.username = "ada" * 50
    stage.ada.save()
    show(stage)
    assert_it_fits(stage.page)


def test_dark_and_light_are_what_the_reader_prefers(stage: Stage) -> None:
    stage.open("/invites/new/", stage.ada)
    lightness = {}
    for scheme in SCHEMES:
        stage.page.emulate_media(color_scheme=scheme)
        colours = stage.page.evaluate(
            """["body", "main", "input[name=email]", "textarea"].map((selector) =>
                getComputedStyle(document.querySelector(selector)).backgroundColor)"""
        )
        lightness[scheme] = [sum(map(int, colour[4:-1].split(", "))) / 765 for colour in colours]
    assert min(lightness["light"]) > 0.9 and max(lightness["dark"]) < 0.2


def test_on_a_narrow_screen_a_table_is_still_one_to_a_screen_reader(stage: Stage) -> None:
    a_list(stage)
    stage.page.set_viewport_size({"width": 375, "height": 667})
    accessibility = stage.page.context.new_cdp_session(stage.page)
    nodes = accessibility.send("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    counts = {role: roles.count(role) for role in ("table", "row", "columnheader", "cell")}
    assert counts == {"table": 1, "row": 6, "columnheader": 4, "cell": 20}
