"""Claims that no consumer is to see, and what becomes of them."""

from __future__ import annotations

import traceback

from ..conf import settings
from ..messages import Message
from ..routing import Plan, Route
from .incoming import Outcome


def triage(claim: Message, plan: Plan, lease: float) -> Outcome | tuple[Route, dict[str, str]]:
    """Return the route that takes a claim and its consumer's keyword arguments, or what becomes of it without one.

    ``lease``: the seconds for which it was claimed.
    """
    try:
        return _unfit(claim, plan) or plan.match(claim) or _unmatched(claim, lease)
    except Exception as error:  # whatever a filter says of whatever a content holds
        return _unroutable(claim, error)


def _unfit(claim: Message, plan: Plan) -> Outcome | None:
    """What becomes of a claim that cannot be read, or was lost too often; ``None``: it can run."""
    if claim.defect:
        return Outcome("buried", f"The message cannot be read: {claim.defect}.")
    if claim.losses >= plan.most_losses:
        return Outcome("buried", _lost_too_often(claim))
    return None


def _unmatched(claim: Message, lease: float) -> Outcome:
    """What becomes of a claim that no route matches: it is kept, and looked at less and less often (1 s to 1 h)."""
    claimed_at = claim.claimed_until - lease  # on the storage's clock, both
    age = claimed_at - (claim.sent_at or 0)
    why = f"no route of channel {claim.channel!r} matches its content; it is kept"
    return Outcome("released", why, min(3600.0, max(1.0, age)))


def _unroutable(claim: Message, error: Exception) -> Outcome:
    """What becomes of a claim for which looking for its route raised: a failed attempt, and after some it is dead."""
    why = "".join(traceback.format_exception(error))
    if claim.attempt >= settings.attempts:
        return Outcome("buried", why)
    return Outcome(
        "retried", why, min(settings.backoff_max, settings.backoff * 2.0 ** min(claim.attempt, 60))
    )


def _lost_too_often(claim: Message) -> str:
    return (
        f"It was lost {claim.losses} times: each time its worker process died, or stopped renewing the lease, while "
        "it ran. Its consumer may crash the process (a segmentation fault, os._exit, memory running out)."
    )
