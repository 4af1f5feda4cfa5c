#!/usr/bin/env bash
# smtplib.SMTP.login, which Django's SMTP backend calls, answers a refused password by trying the same password with
# the next mechanism: one wrong setting is two or three failed logins per connection, which lock-outs count.
# RFC 4954 section 6 has 535 say that the credentials are invalid, not the mechanism.
#
# Prints what happened. Exit status: 0 as described, 1 it behaves otherwise now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiosmtpd==1.4.6 Django==5.2.19
cat >"$folder/try.py" <<'END'
import smtplib
import socket
import sys

import django
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from django.conf import settings

settings.configure()
from django.core.mail.backends.smtp import EmailBackend

asked = []


def refuse(server, session, envelope, mechanism, auth_data):
    asked.append(mechanism)
    return AuthResult(success=False, handled=False)


with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
controller = Controller(object(), hostname="127.0.0.1", port=port, authenticator=refuse, auth_require_tls=False)
controller.start()
backend = EmailBackend(host="127.0.0.1", port=port, username="shop", password="not the password")
try:
    backend.open()
except smtplib.SMTPAuthenticationError as error:
    told = error.smtp_code
else:
    told = None
controller.stop()
print(f"Python {sys.version.split()[0]}, Django {django.__version__}: one open() with a wrong password")
print(f"  logins the server has refused: {len(asked)} ({', '.join(asked)}); told in the end: {told}")
sys.exit(0 if len(asked) > 1 and told == 535 else 1)
END
"$folder/venv/bin/python" "$folder/try.py"
