"""Word the actions of the live page: what the button says, and what the dialog says will happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy, pgettext_lazy


@dataclass(frozen=True, slots=True)
class ActionWording:
    """Word one action. ``{target}`` of ``effect`` is replaced by the names of what is acted on."""

    name: str
    label: Any
    effect: Any
    is_final: bool = False


DURATIONS = {
    "day": pgettext_lazy("duration", "%(n)s d"),
    "hour": pgettext_lazy("duration", "%(n)s h"),
    "minute": pgettext_lazy("duration", "%(n)s min"),
    "second": pgettext_lazy("duration", "%(n)s s"),
    "millisecond": pgettext_lazy("duration", "%(n)s ms"),
}
"""How durations are written, here and in the tables."""

ACTIONS = (
    ActionWording(
        "pause",
        pgettext_lazy("dashboard", "Pause"),
        gettext_lazy("Workers take nothing more of {target} until somebody resumes. What runs now goes on."),
    ),
    ActionWording(
        "resume",
        pgettext_lazy("dashboard", "Resume"),
        gettext_lazy("Workers take what is due of {target} again, at once."),
    ),
    ActionWording(
        "send_now",
        pgettext_lazy("dashboard", "Send now"),
        gettext_lazy("What waits for a retry or for its time in {target} becomes due at once."),
    ),
    ActionWording(
        "requeue",
        pgettext_lazy("dashboard", "Requeue"),
        gettext_lazy("What is dead or has failed in {target} runs again, from its first attempt."),
    ),
    ActionWording(
        "discard",
        pgettext_lazy("dashboard", "Discard"),
        gettext_lazy("The dead messages of {target} are deleted for good. Nothing of them is kept."),
        is_final=True,
    ),
    ActionWording(
        "cancel",
        pgettext_lazy("dashboard", "Cancel"),
        gettext_lazy("What waits in {target} is never run. That cannot be undone."),
        is_final=True,
    ),
)
"""The actions, in the order of their buttons."""
