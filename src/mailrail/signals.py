"""Signals a worker sends. They only tell: what a receiver raises is logged and changes nothing.

``sender`` is the channel's name. All carry ``message`` (``mailrail.worker.incoming.IncomingMessage``), and:

``message_started``
    a consumer is about to run.
``message_finished``
    ``outcome`` (``"finished"``, ``"discarded"``, ``"retried"``, ``"buried"``, ``"released"``, ``"lost"``,
    ``"expired"``) and ``duration`` in seconds: sent once for every claim, after it was settled.
``message_retried``
    ``error`` (text) and ``delay`` in seconds.
``message_buried``
    ``error`` (text).
"""

from django.dispatch import Signal

message_started = Signal()
message_finished = Signal()
message_retried = Signal()
message_buried = Signal()
