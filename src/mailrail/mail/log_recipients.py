"""How logs name recipients: as ``MAILRAIL["MAIL_LOG_RECIPIENTS"]`` says, also where a server's reply quotes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailrail.conf import settings
from mailrail.terminal import single_line

MOST = 20
"""Recipients of an email that are named."""
_ADDRESS = re.compile(r"""("[^"@]*"|[^\s<>()\[\],;:"']+)@([^\s<>()\[\],;:"']+)""")
"""What looks like an address, with its domain; a quoted local part may hold spaces (RFC 5321 4.1.2)."""


def named(addresses: Sequence[str]) -> str:
    """Return these addresses as the log may name them, on one line."""
    if settings.mail_log_recipients == "none":
        return f"{len(addresses)} recipient(s)"
    shown = list(dict.fromkeys(masked(each) for each in addresses[:MOST]))
    more = len(addresses) - MOST
    return single_line(",".join(shown)) + (f",and {more} more" if more > 0 else "")


def masked(text: str) -> str:
    """Return the text with the addresses in it as the log may name them."""
    how = settings.mail_log_recipients
    if how == "full" or "@" not in text:
        return text
    return _ADDRESS.sub(r"…@\2" if how == "domain" else "…", text)
