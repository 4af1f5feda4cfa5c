"""Declare the signals of a worker. An exception of a receiver is logged and changes nothing.

``sender`` is the channel's name: ``message_buried.connect(receiver, sender="send-invite")`` is for that channel alone.
The first five carry ``message`` (``mailrail.worker.incoming.IncomingMessage``), and:

``message_started``
    a consumer is about to run.
``message_finished``
    ``outcome`` (``"finished"``, ``"discarded"``, ``"retried"``, ``"buried"``, ``"released"``, ``"lost"``,
    ``"expired"``) and ``duration`` in seconds: sent once for every claim, after it was settled.
``message_retried``
    ``error`` (text), ``delay`` in seconds, and ``timed_out``: whether the run was over its time limit.
``message_buried``
    ``error`` (text).
``message_discarded``
    ``error`` (text): the consumer raised ``Discard``, or ``kill_run`` has killed its process.

One more carries ``message``, of a channel whose messages somebody removes (``mailrail.messages.Message``):

``message_cancelled``
    ``manage.py channels cancel`` or the admin has removed it before it could run.

The others carry nothing. One is about the worker itself:

``worker_maintenance``
    a worker process that serves the channel is alive: sent on a thread beside its work, soon after its start and then
    once a minute.

Two are about the channel, for apps that keep records of pauses:

``channel_paused``, ``channel_resumed``
    ``manage.py channels pause`` or ``resume`` was run for it.
"""

from __future__ import annotations

from typing import Any

from django.dispatch import Signal


class ChannelSignal(Signal):
    """Send Django signals whose senders are names.

    Django tells senders apart by identity, and the name of a message's channel is read anew each time. So the first
    string that is equal stands for all of them, and is kept: another object could be given its identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}

    def connect(
        self, receiver: Any, sender: object = None, weak: bool = True, dispatch_uid: Any = None
    ) -> None:
        if isinstance(sender, str):
            name = str.__str__(sender)  # a plain one, also of an enum's member
            sender = self._names.setdefault(name, name)
        super().connect(receiver, sender, weak, dispatch_uid)

    def disconnect(self, receiver: Any = None, sender: object = None, dispatch_uid: Any = None) -> bool:
        return super().disconnect(receiver, self._known(sender), dispatch_uid)

    def has_listeners(self, sender: Any = None) -> bool:
        return super().has_listeners(self._known(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        return super().send(self._known(sender), **named)

    def send_robust(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        return super().send_robust(self._known(sender), **named)

    async def asend(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        return await super().asend(self._known(sender), **named)

    async def asend_robust(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        return await super().asend_robust(self._known(sender), **named)

    def _known(self, sender: Any) -> Any:
        """Return the string to which a receiver was connected, if one equals this sender."""
        return self._names.get(sender, sender) if isinstance(sender, str) else sender


message_started = ChannelSignal()
message_finished = ChannelSignal()
message_retried = ChannelSignal()
message_buried = ChannelSignal()
message_discarded = ChannelSignal()
message_cancelled = ChannelSignal()
worker_maintenance = ChannelSignal()
channel_paused = ChannelSignal()
channel_resumed = ChannelSignal()
