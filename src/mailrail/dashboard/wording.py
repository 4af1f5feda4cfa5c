"""Word the actions of the live page: what the button says, and what the dialog says will happen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy, pgettext_lazy


@dataclass(frozen=True, slots=True)
class ActionWording:
    """Word one action. ``effects``: what will happen, by section; ``{target}`` stands for what is acted on."""

    name: str
    label: Any
    effects: Mapping[str, Any]
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
        {
            "channels": gettext_lazy(
                "Workers claim no more messages of {target} until somebody resumes. Those that run now go on."
            ),
            "mail": gettext_lazy("Nothing is sent by {target} until somebody resumes. Its email waits."),
        },
    ),
    ActionWording(
        "resume",
        pgettext_lazy("dashboard", "Resume"),
        {
            "channels": gettext_lazy("Workers claim messages of {target} again, at once."),
            "mail": gettext_lazy("Email is sent by {target} again, at once."),
        },
    ),
    ActionWording(
        "send_now",
        pgettext_lazy("dashboard", "Send now"),
        {"mail": gettext_lazy("Email of {target} that waits for a retry becomes due at once.")},
    ),
    ActionWording(
        "requeue",
        pgettext_lazy("dashboard", "Requeue"),
        {
            "channels": gettext_lazy("The dead messages of {target} run again, from their first attempt."),
            "mail": gettext_lazy("Email of {target} that has failed is sent again."),
        },
    ),
    ActionWording(
        "discard",
        pgettext_lazy("dashboard", "Discard"),
        {
            "channels": gettext_lazy(
                "The dead messages of {target} are deleted for good. Nothing of them is kept."
            )
        },
        is_final=True,
    ),
    ActionWording(
        "cancel",
        pgettext_lazy("dashboard", "Cancel"),
        {
            "channels": gettext_lazy("Messages of {target} that nobody has claimed are never run."),
            "mail": gettext_lazy("Email of {target} that waits is never sent."),
            "operations": gettext_lazy("It stops after the part that runs now. What is done stays done."),
        },
        is_final=True,
    ),
)
"""The actions, in the order of their buttons."""
