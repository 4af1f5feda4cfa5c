"""The admin: dead messages and those that wait, on whichever layer they are."""

from mailrail.record_links import link_records

from .dead import DeadMessageAdmin
from .waiting import WaitingMessageAdmin

__all__ = ["DeadMessageAdmin", "WaitingMessageAdmin", "link_records"]
