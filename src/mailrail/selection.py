"""Choose the channels that a worker serves: by name, by pattern, and by globs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import InvalidSettings
from .routing import Routing


@dataclass(frozen=True)
class Selection:
    """Hold what ``runworker`` was given. ``names``: channels and patterns; ``None``: all that are routed.

    The name before the ``.*`` of a pattern means all its channels, in ``names`` and as a glob.
    """

    names: tuple[str, ...] | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def channels(self, routing: Routing, known: Iterable[str] = ()) -> list[str]:
        """Return the channels to serve, of those that are routed by name, and of those that a layer knows."""
        if self.names is None:
            candidates = [*routing.plans, *known]
        else:
            candidates = [name for name in self.names if name in routing]
            for pattern in self.patterns(routing):
                candidates += [c for c in (*routing.plans, *known) if _matches(c, pattern)]
        chosen = dict.fromkeys(c for c in candidates if c in routing and self._includes(c, routing))
        return list(chosen)

    def patterns(self, routing: Routing) -> list[str]:
        """Return the patterns of whose channels a layer may know more than the routing does."""
        if self.names is None:
            return list(routing.patterns)
        named = dict.fromkeys(pattern for name in self.names if (pattern := routing.pattern_of(name)))
        return list(named)

    def _includes(self, channel: str, routing: Routing) -> bool:
        def is_meant(glob: str) -> bool:
            pattern = routing.pattern_of(glob)
            return fnmatchcase(channel, glob) or (pattern is not None and _matches(channel, pattern))

        is_in = not self.only or any(map(is_meant, self.only))
        return is_in and not any(map(is_meant, self.exclude))


def expand(name: str, alias: str | None, known: Iterable[str]) -> list[str]:
    """Return the channels that a name means on a layer: itself, or all of the pattern that it stands for."""
    try:
        routing = Routing.of_layer(alias)
    except InvalidSettings:  # a check reports it
        return [name]
    if routing.pattern_of(name) is None:
        return [name]
    return sorted(Selection((name,)).channels(routing, known))


def _matches(channel: str, pattern: str) -> bool:
    return channel.startswith(pattern[:-1])
