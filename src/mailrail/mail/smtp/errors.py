"""What the SMTP client raises, and puts into outcomes.

MailrailError
├── SmtpError                the connection's or the server's fault, never an email's
│   ├── CannotConnect        no connection: name, network, port, firewall, time
│   ├── CannotBegin          what we were given to begin with does not work: a certificate's file, a token's function
│   ├── ServerRefused        the greeting or EHLO was answered with 4xx or 5xx
│   ├── TlsFailed            STARTTLS not offered or refused, a wrong certificate, no handshake
│   ├── AuthenticationRefused
│   ├── ConnectionLost       closed, reset, 421
│   │   └── TimedOut         silence for longer than the stage allows
│   ├── ProtocolError        what came is no SMTP, or out of turn
│   │   └── PipeliningRefused    503 to MAIL that was sent behind the final dot of another email
│   ├── NotCommitted         the caller did not allow the final dot
│   └── PoolExhausted        all connections are in use, and stayed so
└── Unsendable               this email's fault: nothing of it was sent
    ├── InvalidAddress       it would break out of its command
    ├── BareNewline          a CR without LF, or an LF without CR
    ├── TooLarge             larger than the server's SIZE
    ├── EightBitNotOffered   bytes above 127 and no 8BITMIME: compose it again as 7bit
    └── Utf8NotOffered       a non-ASCII address and no SMTPUTF8
"""

from __future__ import annotations

from mailrail import MailrailError

from .replies import Reply, Stage


class SmtpError(MailrailError):
    """``stage``: where it happened; ``reply``: what the server said, if it did; ``code`` and ``text`` of it.

    ``advice``: in place of the usual one of its class, where the cause is known better.
    """

    advice = ""

    def __init__(
        self, what: str, stage: Stage, reply: Reply | None = None, *, advice: str | None = None
    ) -> None:
        if advice is not None:
            self.advice = advice
        reply_text = f": {reply}" if reply else ""
        advice = f" {self.advice}" if self.advice else ""
        super().__init__(f"{what}{reply_text}.{advice}")
        self.what = what
        self.stage = stage
        self.reply = reply

    @property
    def code(self) -> int | None:
        return self.reply.code if self.reply else None

    @property
    def text(self) -> str:
        return self.reply.text if self.reply else self.what


class CannotConnect(SmtpError):
    advice = "Check host and port, and that this machine may reach them."


class CannotBegin(SmtpError):
    advice = "Check the options of the mailer: certificate, key, user name, password, token."


class ServerRefused(SmtpError):
    advice = "4xx: try later. 5xx: the server wants no mail from this machine; ask its operator."


CERTIFICATE = (
    "Check that the certificate is for this host name, has not expired, and is signed by an authority this machine "
    "trusts; one of your own is given as ssl_context: see the how-to 'Trusting a private certificate authority'."
)
CLIENT_CERTIFICATE = "If the server asks for a client certificate: ssl_certfile and ssl_keyfile name yours."
"""TLS 1.3 ends its handshake before the server looks at a certificate, or at its absence (RFC 8446 4.4.2.4)."""
REFUSED_STARTTLS = "4xx: it is tried again later. 5xx: ask the operator of the server."
SLIPPED_IN = "Somebody on the way may have put it there, to be taken for the server."


class TlsFailed(SmtpError):
    advice = "Check use_tls (STARTTLS, port 587) or use_ssl (port 465)."


class AuthenticationRefused(SmtpError):
    advice = (
        "Check username and password, or the token; some servers take them over TLS only. Gmail and Microsoft 365 want "
        "a token or an app password: see the how-to 'Logging in with OAuth tokens'."
    )


class ConnectionLost(SmtpError):
    pass


class TimedOut(ConnectionLost):
    advice = "The timeout option says how long to wait."


class ProtocolError(SmtpError):
    advice = "Is this an SMTP server, and does its port fit use_ssl?"


class PipeliningRefused(ProtocolError):
    advice = ""


class NotCommitted(SmtpError):
    pass


class PoolExhausted(SmtpError):
    advice = "Raise pool_size, or send less at once."


class Unsendable(MailrailError, ValueError):
    """Report an email of which nothing was sent, and which this server will never accept as it is."""


class InvalidAddress(Unsendable):
    pass


class BareNewline(Unsendable):
    pass


class TooLarge(Unsendable):
    pass


class EightBitNotOffered(Unsendable):
    pass


class Utf8NotOffered(Unsendable):
    pass
