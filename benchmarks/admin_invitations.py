"""How fast the admin's pages of invitations are on PostgreSQL, with 1,000,000 of them."""

from __future__ import annotations

from . import admin
from .figures import Plan, Result


def run(plan: Plan) -> Result:
    """Nearly all of one sender."""
    return admin.measure(plan, "invitations")
