"""Say on the first page of the admin whether all is well: ``{% mailrail_state %}``."""

from __future__ import annotations

from typing import Any

from django import template

from ..health import health_of
from ..links import live_page
from ..page import samples
from ..viewers import VIEW, viewer_of

register = template.Library()


@register.inclusion_tag("mailrail_dashboard/admin_state.html", takes_context=True)
def mailrail_state(context: Any) -> dict[str, Any]:
    """Show a link to the live page, with what is wrong. Whoever may not see the page gets nothing, and asks nothing."""
    user, url = getattr(context.get("request"), "user", None), live_page()
    if user is None or not url or not user.has_perm(VIEW):
        return {}
    return {"url": url, "health": health_of(samples(), viewer_of(user))}
