"""SMTP: many emails over few connections, pipelined, with an exact outcome for each."""

from .backend import EmailBackend, server_of
from .connection import Connection
from .driver import drive, send_all
from .envelope import DeliveryOutcome, Envelope, EnvelopeSource, Fate, check_address
from .errors import SmtpError
from .pool import Pool, close_all, close_pools, pool_of
from .server import SmtpServer, Timeouts

__all__ = [
    "Connection",
    "DeliveryOutcome",
    "EmailBackend",
    "Envelope",
    "EnvelopeSource",
    "Fate",
    "Pool",
    "SmtpError",
    "SmtpServer",
    "Timeouts",
    "check_address",
    "close_all",
    "close_pools",
    "drive",
    "pool_of",
    "send_all",
    "server_of",
]
