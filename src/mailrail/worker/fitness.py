"""Claims that no consumer is to see, and what becomes of them."""

from __future__ import annotations

from ..messages import Message
from ..routing import Plan
from .incoming import Outcome


def unfit(claim: Message, plan: Plan) -> Outcome | None:
    """What becomes of a claim that cannot be read, or was lost too often; ``None``: it can run."""
    if claim.defect:
        return Outcome("buried", f"The message cannot be read: {claim.defect}.")
    if claim.losses >= plan.most_losses:
        return Outcome("buried", _lost_too_often(claim))
    return None


def unmatched(claim: Message, plan: Plan) -> Outcome:
    """What becomes of a claim that no route matches: it is kept, and looked at less and less often (1 s to 1 h)."""
    claimed_at = claim.claimed_until - plan.lease  # on the storage's clock, both
    age = claimed_at - (claim.sent_at or 0)
    why = f"no route of channel {claim.channel!r} matches its content; it is kept"
    return Outcome("released", why, min(3600.0, max(1.0, age)))


def _lost_too_often(claim: Message) -> str:
    return (
        f"It was lost {claim.losses} times: each time its worker process died, or stopped renewing the lease, while "
        "it ran. Its consumer may crash the process (a segmentation fault, os._exit, memory running out)."
    )
