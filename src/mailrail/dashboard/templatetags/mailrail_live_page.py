"""Bring the sections of the live page, and the wording of its actions, to its template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import template

from ..columns import sections_of
from ..wording import ACTIONS, DURATIONS, ActionWording

register = template.Library()


@register.filter
def sections(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sections that the page has, with cells in the order of their columns."""
    return list(sections_of(page))


@register.simple_tag
def wordings_of_actions() -> tuple[ActionWording, ...]:
    """Return the wording of each action, in the order of the buttons."""
    return ACTIONS


@register.simple_tag
def wordings_of_durations() -> dict[str, str]:
    """Return how durations are written, by unit, with ``{n}`` for the number."""
    return {unit: str(text) % {"n": "{n}"} for unit, text in DURATIONS.items()}
