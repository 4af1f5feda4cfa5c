"""Show how far something is, in the templates of any app."""

from __future__ import annotations

from typing import Any

from django.db.models import Model
from django.template import Context, Library
from django.utils.formats import number_format
from django.utils.text import slugify
from django.utils.translation import pgettext

from mailrail.monitoring.progress import WorkProgress, progress_of

register = Library()

_COUNT = "mailrail_progress"


@register.inclusion_tag("mailrail/progress.html", takes_context=True)
def mailrail_progress(context: Context, value: Any, label: str = "", id: str = "") -> dict[str, Any]:
    """Show a bar with what is done, failed and waiting, and the failures by name.

    A script loads the page again, and takes from it what has changed, until all is done. ``value``: a ``WorkProgress``,
    or an object whose method ``mailrail_progress()`` returns one. ``label``: what is counted, as "Sent". ``id``: of
    the element, if the page shows several that are no models.
    """
    progress = progress_of(value)
    count = 1 + (context.render_context.get(_COUNT) or 0)
    context.render_context[_COUNT] = count
    return {
        "progress": progress,
        "id": id or _id_of(value, count),
        "label": label or pgettext("progress", "Done"),
        "numbers": {
            name: _number(getattr(progress, name)) for name in ("done", "total", "failed", "waiting")
        },
        "more": _number(progress.failed - len(progress.failures)),
        "has_more": progress.failures and progress.failed > len(progress.failures),
        "bar": _bar(progress),
        "is_first": count == 1,
        "csp_nonce": context.get("csp_nonce"),
    }


def _id_of(value: Any, count: int) -> str:
    """Return an id that is the same when the page is loaded again."""
    key = f"{value._meta.label_lower}-{value.pk}" if isinstance(value, Model) else str(count)
    return f"mailrail-progress-{slugify(key.replace('.', '-'))}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    rounded = round(value, 2)
    decimals = None if rounded == int(rounded) else 2
    shown = int(rounded) if decimals is None else rounded
    return number_format(shown, decimals, force_grouping=True)


def _bar(progress: WorkProgress) -> dict[str, Any]:
    """Return percentages of the bar's width, for attributes: they have a point in every language."""
    if not progress.total:
        return {"done": "0", "failed": "0", "value": "100" if progress.has_ended else None, "quarter": 0}
    done = min(100.0, 100 * progress.done / progress.total)
    failed = min(100.0 - done, 100 * progress.failed / progress.total)
    quarter = 25 * int((done + failed) // 25)
    return {
        "done": f"{done:.2f}",
        "failed": f"{failed:.2f}",
        "value": f"{done + failed:.0f}",
        "quarter": quarter,
    }
