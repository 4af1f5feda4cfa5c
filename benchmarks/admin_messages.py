"""How fast the admin's pages of messages are on PostgreSQL, with 1,000,000 that wait and 1,000,000 that are dead."""

from __future__ import annotations

from . import admin
from .figures import Plan, Result


def run(plan: Plan) -> Result:
    """In 20 channels of two priorities, and one long lane."""
    return admin.measure(plan, "messages")
