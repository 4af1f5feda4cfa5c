"""Who sends: a few threads, each with lanes of its own, in transactions that commit or roll back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from django.db import Error, InterfaceError, connection, transaction

from mailrail import Channel
from mailrail.errors import LayerUnavailable

from .consumers import ATTEMPTS
from .records import record

OUTAGES = (Error, InterfaceError, LayerUnavailable, OSError)


class _RollBack(Exception):
    pass


class Sender(threading.Thread):
    """Sends about ``rate`` messages a second until ``stop``, whatever becomes of the server."""

    def __init__(self, number: int, seed: int, rate: float) -> None:
        super().__init__(name=f"sender-{number}", daemon=True)
        self.sent = 0  # messages of committed transactions, as far as it was told
        self.rolled_back = 0
        self._number = number
        self._chance = random.Random(f"{seed}-{number}")
        self._rate = rate
        self._over = threading.Event()
        self._places = 0  # taken in its lanes

    def stop(self) -> None:
        self._over.set()
        self.join(60)

    def run(self) -> None:
        kinds: list[tuple[Callable[[], int], int]] = [
            (self._one, 30), (self._many, 2), (self._keyed, 10), (self._in_lanes, 20), (self._later, 15),
            (self._failing, 5), (self._batched, 5), (self._async, 10), (self._once, 10),
        ]  # fmt: skip
        send, weights = zip(*kinds, strict=True)
        while not self._over.is_set():
            [kind] = self._chance.choices(send, weights)
            self._over.wait(self._transact(kind) / self._rate)
        connection.close()

    def _transact(self, kind: Callable[[], int]) -> int:
        """Send in a transaction, which one time in ten is rolled back. Returns the messages sent."""
        count = 1
        try:
            with transaction.atomic():
                count = kind()
                if self._chance.random() < 0.1:
                    raise _RollBack
            self.sent += count
        except _RollBack:
            self.rolled_back += count
        except OUTAGES:  # sent or not: the record knows
            connection.close()
            time.sleep(0.1)
        return count

    # -- kinds of messages, each recorded in the transaction that sends it --------------------------------------

    def _one(self) -> int:
        content = {"slow": self._chance.random() < 0.4}
        record([Channel("plain").send(content, priority=self._chance.randint(-100, 100))], "plain")
        return 1

    def _many(self) -> int:
        ids = Channel("plain").send_many([{"text": "x" * self._chance.randrange(2000)}] * 50)
        record(ids, "plain")
        return len(ids)

    def _keyed(self) -> int:
        key, delay = f"key-{self._chance.randrange(20)}", self._chance.choice([0.0, 0.5])
        record([Channel("plain").send({}, key=key, delay=delay)], "plain")
        return 1

    def _in_lanes(self) -> int:
        lane = f"lane-{self._number}-{self._chance.randrange(10)}"
        for _ in range(count := self._chance.randint(1, 4)):
            self._places += 1
            failures = self._chance.choices([0, 1, ATTEMPTS], [90, 8, 2])[0]
            content = {"n": self._places, "failures": failures}
            record([Channel("laned").send(content, lane=lane)], "laned", dies=failures == ATTEMPTS)
        return count

    def _later(self) -> int:
        delay = self._chance.uniform(0.1, 5.0)
        record([Channel("plain").send({"delay": delay}, delay=delay)], "plain")
        return 1

    def _failing(self) -> int:
        failures = self._chance.randint(1, ATTEMPTS)
        record([Channel("plain").send({"failures": failures})], "plain", dies=failures == ATTEMPTS)
        return 1

    def _batched(self) -> int:
        ids = Channel("batched").send_many([{}] * self._chance.randint(1, 30))
        record(ids, "batched")
        return len(ids)

    def _async(self) -> int:
        record([Channel("waiting").send({})], "waiting")
        return 1

    def _once(self) -> int:
        seconds = self._chance.choice([0.0, 0.0, self._chance.uniform(0.0, 2.0)])
        record([Channel("once").send({"seconds": seconds})], "once")
        return 1
