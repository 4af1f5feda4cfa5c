"""How many emails that are bytes already go out over SMTP: ours beside smtplib and aiosmtplib."""

from __future__ import annotations

import asyncio
import smtplib
import threading
from collections.abc import Callable, Iterator, Sequence

import aiosmtplib

from mailrail.mail.smtp import DeliveryOutcome, Envelope, Fate, SmtpServer, close_pools, pool_of, send_all

from .figures import Plan, Ratio, Result, Series, Target, seconds_of
from .sink import relay, sink

UNIT = "emails/s"
SENDER, RECIPIENT = "shop@example.com", "customer@example.com"
CONTENT = (
    b"From: shop@example.com\r\nTo: customer@example.com\r\nSubject: Your order\r\n"
    b"Date: Tue, 24 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n'
    + b"Thank you for your order.\r\n"
    * 8
)
FAR = 0.02
"""Seconds until the relay answers a write."""
AT_THE_SINK = {"ours": 10_000, "smtplib": 2_000, "aiosmtplib": 2_000}
AT_THE_RELAY = {"ours": 2_000, "smtplib": 400, "aiosmtplib": 400}
ONE_BY_ONE = 400
LEAST = 1.6

Send = Callable[[int, int, int], None]


def run(plan: Plan) -> Result:
    series: dict[str, Series] = {}

    def measure(name: str, send: Send, port: int, count: int, connections: int) -> None:
        seconds = seconds_of(lambda: send(port, count, connections))
        series.setdefault(name, Series(name, UNIT)).values.append(count / seconds)

    with (
        sink() as near,
        relay(FAR, pipelining=True) as far,
        relay(FAR, pipelining=False) as far_one_by_one,
    ):
        for _ in range(plan.rounds):
            for name, send in CONTENDERS.items():
                for connections in (1, 8, 20):
                    count = plan.size(AT_THE_SINK[name])
                    measure(f"{name}, {connections} connections", send, near, count, connections)
                measure(f"{name}, 20 ms, 20 connections", send, far, plan.size(AT_THE_RELAY[name]), 20)
            for name, send in CONTENDERS.items():
                measure(f"{name}, 20 ms, 20 connections, no PIPELINING", send, far_one_by_one, ONE_BY_ONE, 20)
    return _result(series)


def _result(series: dict[str, Series]) -> Result:
    cases = [name.partition(", ")[2] for name in series if name.startswith("ours")]
    ratios = [
        Ratio.of(series[f"ours, {case}"], series[f"{peer}, {case}"])
        for case in cases
        for peer in ("smtplib", "aiosmtplib")
    ]
    gain = Ratio.of(
        series["ours, 20 ms, 20 connections"],
        series["ours, 20 ms, 20 connections, no PIPELINING"],
        "PIPELINING's gain",
    )
    return Result(
        "SMTP, ready bytes, one process, persistent connections",
        "One recipient, about 500 octets. From before the connections are opened to the reply to the last email. The "
        "server is Postfix's `smtp-sink`, or one in Python that answers each write 20 ms later. smtplib runs in one "
        "thread for each connection, aiosmtplib in one event loop, ours in one thread.",
        list(series.values()),
        [*ratios, gain],
        [Target(f"PIPELINING at 20 ms >= {LEAST} x without", f"{gain.value:.2f} x", gain.value >= LEAST)],
    )


# -- contenders -------------------------------------------------------------------------------------------------------


class _Envelopes:
    def __init__(self, count: int) -> None:
        self._left = count
        self.accepted = 0

    def __len__(self) -> int:
        return self._left

    def next(self) -> Envelope | None:
        if not self._left:
            return None
        self._left -= 1
        return Envelope(SENDER, [RECIPIENT], CONTENT)

    def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
        return [True] * len(envelopes)

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        self.accepted += outcome.fate is Fate.ACCEPTED

    def stop(self) -> None:
        self._left = 0


def _ours(port: int, count: int, connections: int) -> None:
    source = _Envelopes(count)
    pool = pool_of(SmtpServer("127.0.0.1", port))
    taken = [pool.take() for _ in range(connections)]
    errors = send_all(taken, source)
    for connection in taken:
        pool.give_back(connection)
    close_pools()
    if errors or source.accepted != count:
        raise RuntimeError(f"{source.accepted} of {count} emails were accepted. {errors}")


def _smtplib(port: int, count: int, connections: int) -> None:
    numbers = iter(range(count))  # next() of it is atomic

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as server:
            for _ in numbers:
                server.sendmail(SENDER, [RECIPIENT], CONTENT)

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _aiosmtplib(port: int, count: int, connections: int) -> None:
    async def send(numbers: Iterator[int]) -> None:
        server = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname="localhost", start_tls=False)
        async with server:
            for _ in numbers:
                await server.sendmail(SENDER, [RECIPIENT], CONTENT)

    async def send_all() -> None:
        numbers = iter(range(count))
        await asyncio.gather(*(send(numbers) for _ in range(connections)))

    asyncio.run(send_all())


CONTENDERS: dict[str, Send] = {"ours": _ours, "smtplib": _smtplib, "aiosmtplib": _aiosmtplib}
