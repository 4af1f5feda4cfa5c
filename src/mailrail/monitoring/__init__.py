"""Observe the channels, mailers, workers and long work of a project, for people on call.

``manage.py channels --watch`` and ``mailrail.dashboard`` show the same facts (``facts``). Apps register what they know
(``registry``), ``sample`` asks all of it once, and ``sampler`` shares the answer among all who ask.
"""

from __future__ import annotations

from .counters import masked, note_mailer, note_trouble
from .facts import (
    ChannelFacts,
    Count,
    FlowFacts,
    OperationFacts,
    Pause,
    SlotFacts,
    TroubleFacts,
    WorkerFacts,
    WorkFacts,
)
from .progress import FailedItem, WorkProgress
from .registry import register_flows, register_operations, register_work
from .sample import Sample
from .sampler import alatest, latest

__all__ = [
    "ChannelFacts",
    "Count",
    "FailedItem",
    "FlowFacts",
    "OperationFacts",
    "Pause",
    "Sample",
    "SlotFacts",
    "TroubleFacts",
    "WorkFacts",
    "WorkProgress",
    "WorkerFacts",
    "alatest",
    "latest",
    "masked",
    "note_mailer",
    "note_trouble",
    "register_flows",
    "register_operations",
    "register_work",
]
