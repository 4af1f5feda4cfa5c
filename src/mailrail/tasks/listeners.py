"""Tell whether anybody notices the signals of ``django.tasks``."""

from __future__ import annotations

import logging
from typing import Any
from weakref import ReferenceType

from .compat import signals, task_enqueued, task_finished, task_started

_LOGGING = {
    task_enqueued: (vars(signals)["log_task_enqueued"], logging.DEBUG),
    task_started: (vars(signals)["log_task_started"], logging.INFO),
    task_finished: (vars(signals)["log_task_finished"], logging.INFO),  # but of failures
}
"""Django's own receivers, which write a line to its log, and the level of that."""


def has_receivers(signal: Any) -> bool:
    """Tell whether others than Django itself receive a signal."""
    receivers = tuple(signal.receivers)
    if len(receivers) != 1:
        return bool(receivers)
    own, receiver = _LOGGING[signal][0], receivers[0][1]
    return not (receiver is own or (isinstance(receiver, ReferenceType) and receiver() is own))


def is_heard(signal: Any) -> bool:
    """Tell whether anybody notices a signal, other than ``task_finished`` of a failure.

    Django's own receiver does nothing if its logger leaves the level out. To call it would cost more than many a task.
    """
    if has_receivers(signal):
        return True
    return bool(signal.receivers) and signals.logger.isEnabledFor(_LOGGING[signal][1])
