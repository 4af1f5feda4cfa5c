"""``python -m benchmarks.mail.attached shared|different COUNT``: emails of 2 MB are queued; prints the peak in MiB."""

from __future__ import annotations

import os
import sys

import django

SIZE = 2 * 1000 * 1000


def main() -> None:
    how, count = sys.argv[1], int(sys.argv[2])
    django.setup()
    from django.core import mail

    from .memory import peak_of
    from .models import Invitation

    def message(n: int, data: bytes) -> mail.EmailMessage:
        made = Invitation(email=f"guest{n}@example.com", key=f"{n:010d}").message()
        made.attach("plan.pdf", data, "application/pdf")
        return made

    if how == "shared":
        data = os.urandom(SIZE)
        mail.mailers["default"].send_messages([message(n, data) for n in range(count)])
    else:
        for n in range(count):
            message(n, os.urandom(SIZE)).send()
    print(peak_of(os.getpid()))


if __name__ == "__main__":
    main()
