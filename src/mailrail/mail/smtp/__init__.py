"""SMTP: many emails over few connections, pipelined, with an exact outcome for each."""

from .backend import EmailBackend, server_of
from .connection import Connection
from .courier import carry, drive
from .envelope import Envelope, Fate, Mailbag, Outcome, check_address
from .errors import SmtpError
from .pool import Pool, close_all, close_pools, pool_of
from .server import Server, Timeouts

__all__ = [
    "Connection",
    "EmailBackend",
    "Envelope",
    "Fate",
    "Mailbag",
    "Outcome",
    "Pool",
    "Server",
    "SmtpError",
    "Timeouts",
    "carry",
    "check_address",
    "close_all",
    "close_pools",
    "drive",
    "pool_of",
    "server_of",
]
