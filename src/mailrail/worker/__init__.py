"""Run the worker: claim, consume, settle.

Where to look, in the order in which a message meets them:

- ``claim_loop`` claims; while nothing is due it sleeps in the layer's ``wait``, which a notification ends.
- ``rate_limiter`` refuses what is over the rate of a channel; ``capacity`` says how many messages a claim may get. (How
  fast mail may leave by a mailer: ``mail.mailers``.)
- ``consume`` checks a claim (no route, lost too often: buried) and runs its consumer, on ``threads`` or the
  event loop of ``pools``.
- ``incoming`` is what a consumer gets. After an error, its ``failed`` decides: retry, or bury, which makes it dead.
- ``leases`` renews the leases of running claims.
- ``settle`` tells the layer, and logs each outcome in one line; ``outcomes`` has the one table of them. (Those of
  emails: ``mail.delivery.outcome_log``.)
- ``lifecycle`` has the states. ``claim_loop`` catches what a layer's server that is down raises; then the loop is
  ``RECOVERING``: it waits, and tries again. (SMTP servers that are down: ``mail.mailers.circuit``.)
- ``supervisor`` starts worker processes. ``isolated`` asks it for one where a route says ``isolate``, and where a
  message has cost a process before.
- ``maintenance`` runs what apps do beside the work, such as the schedule of ``mailrail.schedule``.
"""

from .incoming import Ending, ExecutionContext, IncomingMessage, Remainder, current_execution, finish_all
from .isolated import kill_run
from .maintenance import register_service
from .worker import Worker

__all__ = [
    "Ending",
    "ExecutionContext",
    "IncomingMessage",
    "Remainder",
    "Worker",
    "current_execution",
    "finish_all",
    "kill_run",
    "register_service",
]
