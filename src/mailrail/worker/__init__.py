"""Run the worker: claim, consume, settle.

Where to look, in the order in which a message meets them:

- ``claim_loop`` claims; while nothing is due it sleeps in the layer's ``wait``, which a notification ends.
- ``rate_limiter`` and ``capacity`` say how many messages a claim may get.
- ``consume`` checks a claim (no route, lost too often: buried) and runs its consumer; ``pools`` has the threads.
- ``incoming`` is what a consumer gets. After an error it decides between another attempt and the end.
- ``leases`` renews the leases of running claims.
- ``settle`` tells the layer; ``outcomes`` has the one table of outcomes, and logs each in one line.
- ``lifecycle`` has the states. A loop whose host is down is ``RECOVERING``: it waits, and tries again.
- ``supervisor`` starts worker processes, and ``isolated`` asks it for one where a message has cost a process before.
"""

from .incoming import ExecutionContext, IncomingMessage, current_execution
from .worker import Worker

__all__ = ["ExecutionContext", "IncomingMessage", "Worker", "current_execution"]
