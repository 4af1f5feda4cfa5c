import os
import time
from pathlib import Path

from mailrail.routing import consumer
from mailrail.worker import IncomingMessage

VERSION = "old"


def note(message: IncomingMessage, what: str) -> None:
    line = f"{what} {message.id} {message.attempt} {message.losses} {os.getpid()}\n"
    with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
        ledger.write(line)


@consumer("note")
def version(message: IncomingMessage) -> None:
    note(message, VERSION)


@consumer("held")
def held(message: IncomingMessage) -> None:
    """Run until a file appears."""
    note(message, "began")
    while not Path(message["gate"]).exists():
        time.sleep(0.01)
    note(message, "ran")
