"""What it costs to make the bytes of a mail, beside Django's ``message().as_bytes()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email import policy

import django
from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailrail.mail.compose import compose

from .figures import Plan, Ratio, Result, Series, Target, seconds_of

MAILS = 1_000
IN_A_ROW = 20
"""The two sides take turns after so many."""
MOST = 100
"""Microseconds, for a text of 200 octets."""
LEAST = 8
"""Times faster than Django, for the same one."""
UNIT = "µs"
LINE = "You have been invited by Ann Example. "
HTML = "<p>" + LINE * 3 + "</p>\n"


def run(plan: Plan) -> Result:
    series: list[Series] = []
    ratios: list[Ratio] = []
    for name, build in _mails().items():
        ours, baseline = Series(f"compose(), {name}", UNIT), Series(f"Django, {name}", UNIT)
        for _ in range(plan.rounds):
            _measure(build, plan.size(MAILS), ours, baseline)
        series += [ours, baseline]
        ratios.append(Ratio.of(baseline, ours, f"Django / compose(), {name}"))
    return Result(
        "Composing a mail",
        f"{MAILS:,} messages each in a round, in turns of {IN_A_ROW}; from an EmailMessage with one recipient, new "
        f"for each, to bytes with CRLF. A new Date and Message-ID each time. Django {django.get_version()}.",
        series,
        ratios,
        [
            Target(f"<= {MOST} µs: {series[0].name}", f"{series[0].median:.0f}", series[0].median <= MOST),
            Target(
                f">= {LEAST} x as fast as Django: text", f"{ratios[0].value:.1f}", ratios[0].value >= LEAST
            ),
        ],
    )


def _mails() -> dict[str, Callable[[int], EmailMessage]]:
    return {
        "text": lambda n: _mail(n, "Your invitation", (LINE[:-1] + "\n") * 5 + "Welcome!\n\n"),
        "HTML and text": lambda n: _mail(n, "Your invitation", (LINE[:-1] + "\n") * 5, html=HTML * 5),
        "not ASCII": lambda n: _mail(n, "Ihre persönliche Einladung", "Schöne Grüße aus 東京\n" * 7),
        "100 kB attached": lambda n: _mail(n, "Your invoice", LINE, attachment=bytes(range(250)) * 400),
    }


def _mail(n: int, subject: str, body: str, html: str = "", attachment: bytes = b"") -> EmailMessage:
    to = [f"Guest {n} <guest{n}@example.com>"]
    message = EmailMultiAlternatives(subject, body, "Shop <shop@example.com>", to)
    if html:
        message.attach_alternative(html, "text/html")
    if attachment:
        message.attach("invoice.pdf", attachment, "application/pdf")
    return message


def _measure(build: Callable[[int], EmailMessage], count: int, ours: Series, baseline: Series) -> None:
    spent = {ours.name: 0.0, baseline.name: 0.0}
    numbers = iter(range(count * 4 + IN_A_ROW * 4))
    turns = max(1, count // IN_A_ROW)
    for turn in range(turns + 1):
        for series, write in ((ours, compose), (baseline, _by_django)):
            messages = [build(n) for n in _next(numbers)]
            took = seconds_of(lambda write=write, messages=messages: [write(each) for each in messages])  # type: ignore[misc]
            spent[series.name] += took if turn else 0  # the first ones warm up
    for series in (ours, baseline):
        series.values.append(spent[series.name] / (turns * IN_A_ROW) * 1e6)


def _next(numbers: Iterator[int]) -> list[int]:
    return [next(numbers) for _ in range(IN_A_ROW)]


def _by_django(message: EmailMessage) -> bytes:
    """As Django's SMTP backend does it."""
    if django.VERSION >= (6, 0):
        return bytes(message.message(policy=policy.SMTP).as_bytes())  # type: ignore[call-arg, unused-ignore]
    return bytes(message.message().as_bytes(linesep="\r\n"))  # type: ignore[call-arg, unused-ignore]
