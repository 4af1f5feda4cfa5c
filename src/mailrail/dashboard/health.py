"""Say in one line whether all is well, by the rules of ``channels check``, and what is wrong since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext, ngettext

from mailrail.health import Problem
from mailrail.monitoring.sample import Sample

from . import links
from .cells import shown
from .formats import duration, moment
from .viewers import Viewer


def health_of(samples: Sequence[Sample], viewer: Viewer) -> dict[str, Any]:
    """Return the state, one line about it, and all problems."""
    problems = [_problem(problem, sample, viewer) for sample in samples for problem in sample.health.problems]
    if not problems:
        return {"state": "ok", "text": gettext("All is well"), "problems": []}
    return {"state": "bad", "text": _line(problems), "problems": problems}


def _line(problems: Sequence[dict[str, Any]]) -> str:
    first = problems[0]
    text = first["text"]
    if first["since"]:
        text = gettext("%(problem)s, since %(since)s") % {"problem": text, "since": first["since"]}
    more = len(problems) - 1
    if not more:
        return str(text)
    return ngettext(
        "%(problem)s; and %(count)s more problem", "%(problem)s; and %(count)s more problems", more
    ) % {"problem": text, "count": more}


def _problem(problem: Problem, sample: Sample, viewer: Viewer) -> dict[str, Any]:
    return {
        "key": f"{problem.kind or 'rule'}:{problem.name or problem.reason}",
        "text": shown(_text(problem, sample)),
        "since": moment(problem.since, sample.at),
        "href": _href(problem, sample.layer, viewer),
    }


def _text(problem: Problem, sample: Sample) -> str:
    """Return the problem in the viewer's language, as far as it is one of ours; else as its rule words it."""
    lasts = "" if problem.since is None else duration(sample.at - problem.since)
    values = {"name": problem.name, "duration": lasts, "detail": problem.detail}
    if problem.kind == "mailer" and (reasons := _outages(problem.name, sample)):
        return gettext("Mailer %(name)s is out: %(reason)s") % {**values, "reason": reasons[0]}
    if problem.kind == "channel" and lasts:
        return gettext("Channel %(name)s: a message has been due for %(duration)s") % values
    if problem.kind == "workers":
        return gettext("Workers: %(detail)s") % values
    if problem.kind == "mailer":
        return gettext("Mailer %(name)s: %(detail)s") % values
    return problem.detail


def _outages(mailer: str, sample: Sample) -> list[str]:
    """Return the reason of a mailer's outage, which is what its server said; nothing if nobody knows it."""
    outages = (flow.outage for flow in sample.flows if (flow.mailer or "default") == mailer)
    return [outage.reason for outage in outages if outage and outage.reason]


def _href(problem: Problem, layer: str, viewer: Viewer) -> str:
    if problem.kind == "channel":
        return links.waiting_messages(viewer, layer, problem.name)
    if problem.kind == "mailer":
        return links.mailers(viewer)
    return links.emails(viewer, problem.name) if problem.kind == "email" else ""
