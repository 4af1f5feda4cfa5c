"""What queueing costs: one email in a request, and many in one call."""

from __future__ import annotations

from django.core import mail
from django.db import connection

from ..database import new_row
from ..figures import Plan, Ratio, Result, Series, Target, seconds_of
from ..send import INSERT
from .models import Invitation
from .watching import empty

ONE_BY_ONE = 2_000
IN_A_ROW = 100
"""The two sides take turns after so many."""
MANY = 10_000
MOST = 2.5
LEAST = 5_000.0


def run(plan: Plan) -> Result:
    ours = Series("message.send(), one email", "µs")
    bare = Series("bare INSERT of one row", "µs")
    many = Series(f"send_messages() of {plan.size(MANY):,}", "emails/s")
    for _ in range(plan.rounds):
        empty()
        _one_by_one(plan.size(ONE_BY_ONE), ours, bare)
        empty()
        messages = [_new(n).message() for n in range(plan.size(MANY))]
        mailer = mail.mailers["default"]
        many.values.append(len(messages) / seconds_of(lambda: mailer.send_messages(messages)))  # noqa: B023
    ratio = Ratio.of(ours, bare)
    return Result(
        "Mail: queueing",
        f"In autocommit, as in a request without ATOMIC_REQUESTS, {plan.size(ONE_BY_ONE):,} of each side in turns of "
        f"{IN_A_ROW}, the building of the email or the row included. The bare row: a char(32) primary key, the "
        "email's text, two times and one index, by `connection.cursor().execute()`.",
        [ours, bare, many],
        [ratio],
        [
            Target(f"one email <= {MOST} x a bare INSERT", f"{ratio.value:.2f} x", ratio.value <= MOST),
            Target(
                f">= {LEAST:,.0f} emails/s by send_messages()", f"{many.median:,.0f}", many.median >= LEAST
            ),
        ],
    )


def _new(n: int) -> Invitation:
    return Invitation(email=f"guest{n}@example.com", key=f"{n:010d}")


def _one_by_one(count: int, ours: Series, bare: Series) -> None:
    spent = {ours.name: 0.0, bare.name: 0.0}
    turns = max(1, count // IN_A_ROW)
    for turn in range(turns + 1):
        for series, action in ((ours, _queue), (bare, _insert)):
            took = seconds_of(lambda action=action: [action(n) for n in range(IN_A_ROW)])  # type: ignore[misc]
            spent[series.name] += took if turn else 0  # the first ones warm up
    for series in (ours, bare):
        series.values.append(spent[series.name] / (turns * IN_A_ROW) * 1e6)


def _queue(n: int) -> None:
    _new(n).message().send()


def _insert(n: int) -> None:
    row, text = new_row(n), str(_new(n).message().body)
    with connection.cursor() as cursor:
        cursor.execute(INSERT, [row.id, row.channel, text, row.due, row.sent_at])
