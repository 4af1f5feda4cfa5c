#!/usr/bin/env bash
# Django's SMTP backend drops what smtplib.SMTP.sendmail returns: the recipients that the server has refused while it
# accepted others. A server that takes 100 recipients at once answers 452 4.5.3 to the others (RFC 5321 4.5.3.1.10), which
# are to be sent in another transaction. send() says 1, raises nothing, logs nothing, and they never get the email.
#
# Prints what happened. Exit status: 0 as described, 1 it behaves otherwise now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiosmtpd==1.4.6 Django==5.2.19
cat >"$folder/try.py" <<'END'
import logging
import socket
import sys

import django
from aiosmtpd.controller import Controller
from django.conf import settings
from django.core.mail import EmailMessage

settings.configure()
from django.core.mail.backends.smtp import EmailBackend


class Records(logging.Handler):
    seen = []

    def emit(self, record):
        self.seen.append(record)


class TakesAHundred:
    arrived = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if len(envelope.rcpt_tos) >= 100:
            return "452 4.5.3 Too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.arrived.update(envelope.rcpt_tos)
        return "250 OK"


with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
logging.getLogger("django").addHandler(Records())
controller = Controller(TakesAHundred(), hostname="127.0.0.1", port=port)
controller.start()
bcc = [f"to{n}@example.com" for n in range(500)]
backend = EmailBackend(host="127.0.0.1", port=port)
sent = backend.send_messages([EmailMessage("Hello", "A body.", "me@example.com", bcc=bcc)])
controller.stop()
arrived = len(TakesAHundred.arrived)
print(f"Python {sys.version.split()[0]}, Django {django.__version__}: one email to {len(bcc)} recipients, 100 at once")
print(f"  send_messages() returned {sent}; {arrived} have it; records in the log: {len(Records.seen)}")
sys.exit(0 if (sent, arrived, Records.seen) == (1, 100, []) else 1)
END
"$folder/venv/bin/python" "$folder/try.py"
