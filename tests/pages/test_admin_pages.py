"""The pages of the admin, on a desk and in a hand, in the light and in the dark, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django
import pytest
from django.contrib.auth.models import User

from ..chromium import Windows
from ..mail.conftest import BACKEND, SMTP
from .admin_catalogue import PAGES, Desk, fill, mailers
from .conftest import STRICT
from .test_every_page import SCHEMES, keep_screenshot

SIZES = {"desk": (1280, 900), "hand": (390, 844)}


@pytest.fixture(params=["en", "zh-hans"])
def desk(request: pytest.FixtureRequest, windows: Windows, settings: Any, site: str) -> Desk:
    settings.SECURE_CSP = {**STRICT, "img-src": ["'self'", "data:"], "frame-src": ["'self'"]}
    settings.LANGUAGE_CODE = request.param
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
    if django.VERSION >= (6, 1):
        nowhere = {"BACKEND": SMTP, "OPTIONS": {"host": "127.0.0.1", "port": 1}}
        queues = {"BACKEND": BACKEND, "OPTIONS": {"deliver_with": "out"}}
        settings.MAILERS = {"default": queues, "out": nowhere, "bulk": nowhere}
    else:
        settings.EMAIL_BACKEND = BACKEND
    boss = User.objects.create_superuser("boss", "boss@example.com")
    fill()
    return Desk(windows, boss, request.param)


FAULTS = """() => {
    const content = document.querySelector("#content"), faults = [], wide = document.documentElement.clientWidth;
    const told = (element) => `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 60)}`;
    const isHidden = (head) => [head, head.closest("thead")].some((it) => getComputedStyle(it).clipPath !== "none");
    const seen = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 1;
    if (document.documentElement.scrollWidth > wide) faults.push("the page is wider than the window");
    for (const box of content.querySelectorAll(".results, .mailrail-results"))
        if (box.scrollWidth > box.clientWidth) faults.push(`cut off: ${told(box)}`);
    for (const thing of content.querySelectorAll("button, input:not([type=hidden]), select, textarea, a, td, th")) {
        const { left, right } = thing.getBoundingClientRect();
        if (seen(thing) && !(thing.closest("thead") && isHidden(thing)) && (left < 0 || right > wide + 0.5))
            faults.push(`out of the window: ${told(thing)}`);
    }

    const text = (element) => {
        const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), rects = [];
        while (walker.nextNode()) {
            const range = document.createRange();
            range.selectNodeContents(walker.currentNode);
            if (walker.currentNode.data.trim()) rects.push(...range.getClientRects());
        }
        return { left: Math.min(...rects.map((it) => it.left)), right: Math.max(...rects.map((it) => it.right)) };
    };
    for (const table of content.querySelectorAll("table")) {
        const heads = [...table.querySelectorAll("thead th")].filter((head) =>
            seen(head) && head.textContent.trim() && !isHidden(head));
        if (heads.length < 2) continue;
        heads.forEach((head, place) => {
            const next = heads[place + 1];
            if (next && text(next).left - text(head).right < 6) faults.push(`run together: ${told(head)}`);
            const cells = [...table.querySelectorAll(`tbody tr > :nth-child(${head.cellIndex + 1})`)];
            const cell = cells.find((each) => each.textContent.trim());
            if (!cell || cell.querySelector("button")) return;
            const side = getComputedStyle(cell).textAlign.match(/end|right/) ? "right" : "left";
            if (Math.abs(text(head)[side] - text(cell)[side]) > 4) faults.push(`not over its column: ${told(head)}`);
        });
    }

    const walker = document.createTreeWalker(content, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode, parent = node.parentElement;
        if (parent.closest("pre, script, style, option") || !seen(parent)) continue;
        for (const word of node.data.matchAll(/[\\p{Script=Latin}]{2,25}|\\b\\d{1,8}\\b/gu)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            const lines = new Set([...range.getClientRects()].filter((it) => it.width).map((it) => Math.round(it.top)));
            if (lines.size > 1 && !/[0-9a-f]{16}/.test(node.data)) faults.push(`broken: ${word[0]} in ${told(parent)}`);
        }
    }
    return faults;
}"""


def faults_of(desk: Desk, size: str) -> list[str]:
    """What somebody who reads the page would stumble over at this size of the window."""
    width, height = SIZES[size]
    desk.page.set_viewport_size({"width": width, "height": height})
    return [f"{size}: {fault}" for fault in desk.page.evaluate(FAULTS)]


@pytest.mark.parametrize("show", PAGES, ids=lambda show: show.__name__)
def test_a_page_reads_well(desk: Desk, show: Callable[[Desk], None]) -> None:
    show(desk)
    faults = []
    for size in SIZES:
        faults += faults_of(desk, size)
        for scheme in SCHEMES:
            desk.page.emulate_media(color_scheme=scheme)
            keep_screenshot(desk.page, f"{show.__name__}-{desk.language}-{size}-{scheme}")
    assert not faults, "\n".join(faults)


def test_what_is_hard_to_read_would_be_found(desk: Desk) -> None:
    mailers(desk)
    assert faults_of(desk, "hand") == []
    desk.page.evaluate("document.querySelector('.mailrail-rows').classList.remove('mailrail-rows')")
    desk.page.evaluate(
        "document.querySelectorAll('#content td').forEach((it) => it.style.overflowWrap = 'anywhere')"
    )
    found = " ".join(faults_of(desk, "hand"))
    assert "broken: " in found or "cut off: " in found
    desk.page.evaluate(
        "document.querySelectorAll('#content td').forEach((it) => it.style.paddingLeft = '3rem')"
    )
    assert "not over its column" in " ".join(faults_of(desk, "desk"))
