"""Say in one line whether all is well, by the rules of ``channels check``, and what is wrong since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from mailrail.health import Problem
from mailrail.monitoring.facts import Count, FlowFacts
from mailrail.monitoring.sample import Sample
from mailrail.terminal import without_addresses

from . import links
from .cells import shown
from .formats import duration, joined, moment, number
from .viewers import Viewer


class Told(NamedTuple):
    """Hold a problem in words: what it is, since when, and what people want to know next."""

    key: str
    text: str
    since: str
    more: str
    href: str

    def line(self) -> str:
        """Return all of it in one line."""
        values = {"problem": self.text, "since": self.since}
        text = gettext("%(problem)s, since %(since)s") % values if self.since else self.text
        return joined(text, self.more)

    def as_json(self) -> dict[str, str]:
        """Return what the list of problems shows, which has the moment in a place of its own."""
        return {"key": self.key, "text": joined(self.text, self.more), "since": self.since, "href": self.href}


def health_of(samples: Sequence[Sample], viewer: Viewer) -> dict[str, Any]:
    """Return the state, one line about it, and all problems."""
    told = [_told(problem, sample, viewer) for sample in samples for problem in sample.health.problems]
    if not told:
        return {"state": "ok", "text": gettext("All is well"), "problems": []}
    return {"state": "bad", "text": _line(told), "problems": [problem.as_json() for problem in told]}


def _line(told: Sequence[Told]) -> str:
    line, others = told[0].line(), len(told) - 1
    if not others:
        return line
    return ngettext(
        "%(problem)s; and %(count)s more problem", "%(problem)s; and %(count)s more problems", others
    ) % {"problem": line, "count": others}


def _told(problem: Problem, sample: Sample, viewer: Viewer) -> Told:
    flows = [flow for flow in sample.flows if (flow.mailer or "default") == problem.name]
    is_out = problem.kind == "mailer" and flows
    return Told(
        f"{problem.kind or 'rule'}:{problem.name or problem.reason}",
        shown(without_addresses(_outage(flows[0], problem) if is_out else _text(problem, sample))),
        moment(problem.since, sample.at),
        shown(_outlook(flows[0], sample.at)) if is_out else "",
        _href(problem, sample.layer, viewer),
    )


def _outage(flow: FlowFacts, problem: Problem) -> str:
    reason = flow.outage.reason if flow.outage else ""
    if not reason:
        return gettext("Mailer %(name)s: %(detail)s") % {"name": problem.name, "detail": problem.detail}
    return gettext("Mailer %(name)s is out: %(reason)s") % {"name": problem.name, "reason": reason}


def _outlook(flow: FlowFacts, now: float) -> str:
    """Return how much waits for a mailer that is out, when it is tried next, and who stands in."""
    waiting = Count(
        sum(count.n for count in flow.waiting.values()), any(c.is_estimate for c in flow.waiting.values())
    )
    emails = ngettext("%(count)s email waits", "%(count)s emails wait", waiting.n) % {
        "count": number(waiting)
    }
    next_try = moment(flow.next_probe_at, now)
    return joined(
        emails if waiting.n else "",
        gettext("next try at %(moment)s") % {"moment": next_try} if next_try else "",
        gettext("%(mailer)s stands in") % {"mailer": flow.stands_in} if flow.stands_in else "",
    )


def _text(problem: Problem, sample: Sample) -> str:
    """Return the problem in the viewer's language, as far as it is one of ours; else as its rule words it."""
    lasts = "" if problem.since is None else duration(sample.at - problem.since)
    error = problem.detail.removeprefix(problem.reason).removeprefix(": ")
    values = {"name": problem.name, "duration": lasts, "error": error}
    words = {
        "channel": gettext("Channel %(name)s: a message has been due for %(duration)s") if lasts else "",
        "email": gettext("Mailer %(name)s: an email has been due for %(duration)s") if lasts else "",
        "workers": "" if sample.health.workers else gettext("No workers are running"),
        "layer": gettext("The layer %(name)s cannot be used: %(error)s")
        if error
        else gettext("The layer %(name)s does not answer"),
    }
    text = words.get(problem.kind, "")
    return text % values if text else problem.detail


def _href(problem: Problem, layer: str, viewer: Viewer) -> str:
    if problem.kind == "channel":
        return links.waiting_messages(viewer, layer, problem.name)
    if problem.kind == "mailer":
        return links.mailers(viewer)
    return links.emails(viewer, problem.name) if problem.kind == "email" else ""
