"""Checks of a claim before any consumer sees it: can it be read, was it lost too often, which route takes it?"""

from __future__ import annotations

import traceback

from ..conf import settings
from ..messages import Message
from ..routes import Plan, Route
from .outcomes import Outcome, OutcomeKind


def precheck(claim: Message, plan: Plan, lease: float) -> Outcome | tuple[Route, dict[str, str]]:
    """Return the route that takes a claim and its consumer's keyword arguments, or the outcome of a claim without one.

    ``lease``: the seconds for which it was claimed.
    """
    try:
        return _reject(claim, plan) or plan.match(claim) or _keep(claim, lease)
    except Exception as error:  # a project's filter may raise anything for a content it does not expect
        return _fail(claim, error)


def _reject(claim: Message, plan: Plan) -> Outcome | None:
    """Bury a claim that cannot be read, or was lost too often. Return ``None`` if it can run."""
    if claim.defect:
        return Outcome(OutcomeKind.BURIED, f"The message cannot be read: {claim.defect}.")
    if claim.losses >= plan.max_losses:
        return Outcome(OutcomeKind.BURIED, _lost_too_often(claim))
    return None


def _keep(claim: Message, lease: float) -> Outcome:
    """Release a claim that no route matches, to be checked again in 1 s to 1 h: as long as it has waited so far."""
    claimed_at = claim.claimed_until - lease  # on the storage's clock, both
    age = claimed_at - (claim.sent_at or 0)
    error_text = f"no route of channel {claim.channel!r} matches its content; it is kept"
    return Outcome(OutcomeKind.RELEASED, error_text, min(3600.0, max(1.0, age)))


def _fail(claim: Message, error: Exception) -> Outcome:
    """Retry a claim whose filters raised, and bury it after the default number of attempts."""
    error_text = "".join(traceback.format_exception(error))
    if claim.attempt >= settings.attempts:
        return Outcome(OutcomeKind.BURIED, error_text)
    return Outcome(
        OutcomeKind.RETRIED,
        error_text,
        min(settings.backoff_max, settings.backoff * 2.0 ** min(claim.attempt, 60)),
    )


def _lost_too_often(claim: Message) -> str:
    return (
        f"It was lost {claim.losses} times: each time its worker process died, or stopped renewing the lease, while "
        "it ran. Its consumer may crash the process (a segmentation fault, os._exit, memory running out)."
    )
