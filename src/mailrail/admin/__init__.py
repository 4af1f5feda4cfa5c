"""The admin: dead messages and those that wait, on whichever layer they are."""

from .dead import DeadMessageAdmin
from .waiting import WaitingMessageAdmin

__all__ = ["DeadMessageAdmin", "WaitingMessageAdmin"]
