"""Show dead and waiting messages of every layer in the Django admin."""

from mailrail.record_links import link_records

from .dead import DeadMessageAdmin
from .waiting import WaitingMessageAdmin

__all__ = ["DeadMessageAdmin", "WaitingMessageAdmin", "link_records"]
