"""Consume messages until told to stop: ``manage.py runworker``."""

from __future__ import annotations

import logging
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from mailrail.applications import serves
from mailrail.conf import settings
from mailrail.errors import InvalidSettings, LayerUnavailable
from mailrail.layers import DurableLayer, default_alias, get_layer
from mailrail.layers.tables import lacks_tables
from mailrail.management.arguments import memory, worker_id
from mailrail.options import whole_number_argument
from mailrail.project import HINT, strangers, warning_of
from mailrail.routing import Routing
from mailrail.selection import Selection
from mailrail.terminal import Escaped, counted
from mailrail.worker.child import Job
from mailrail.worker.log import logger
from mailrail.worker.recycling import megabytes, resident
from mailrail.worker.reload import Invocation, Origin
from mailrail.worker.supervisor import Supervisor
from mailrail.worker.worker import new_worker_id


class Command(BaseCommand):
    help = "Consume the messages of all routed channels, or of those named."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "channels",
            nargs="*",
            metavar="channel",
            help="Channels to serve (default: all routed). The name of a pattern means all its channels. A channel "
            "without a route is served by ASGI_APPLICATION.",
        )
        parser.add_argument("--layer", help="Alias in CHANNEL_LAYERS (default: MAILRAIL['LAYER']).")
        for option, text in (("only", "Serve only these."), ("exclude", "Leave these out.")):
            parser.add_argument(
                f"--{option}-channels", action="append", default=[], metavar="GLOB", help=text
            )
        parser.add_argument(
            "--threads", type=whole_number_argument, help="Sync consumers that run at once in a process."
        )
        parser.add_argument("--processes", type=whole_number_argument, help="Number of worker processes.")
        parser.add_argument(
            "--max-messages",
            type=whole_number_argument,
            metavar="N",
            help="Replace a process after this many messages.",
        )
        parser.add_argument(
            "--max-memory",
            type=memory,
            metavar="SIZE",
            help="Replace a process that takes more memory than this: 300M, 1.5G.",
        )
        isolate = "Run each message in a process of its own, which is killed at the time limit; not those of batches."
        parser.add_argument("--isolate", action="store_true", help=isolate)
        parser.add_argument("--drain", action="store_true", help="Exit when nothing is due.")
        parser.add_argument(
            "--worker-id", type=worker_id, help="Name of this worker, unique among running workers."
        )
        parser.add_argument("--lifeline", type=int, help=SUPPRESS)  # for runserver

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            layer = _check_shared(get_layer(options["layer"]))
            routing = Routing.of_layer(options["layer"])
        except InvalidSettings as error:
            raise CommandError(str(error)) from error
        origin = Origin.take()
        job = Job(
            layer=options["layer"],
            channels=(selection := _choose(routing, options)),
            threads=options["threads"],
            processes=options["processes"] or settings.processes,
            worker_id=_name(options["worker_id"], origin),
            drain=options["drain"],
            max_messages=options["max_messages"] or settings.max_messages,
            max_memory=_check_memory(options["max_memory"] or settings.max_memory),
            isolate=options["isolate"],
            lifeline=options["lifeline"],
            invocation=Invocation.current() if origin is None and options["lifeline"] is None else None,
            origin=origin,
        )
        _set_up_logging(options["verbosity"])
        tell_concerns(layer)
        tell_strangers(layer)
        served = selection.channels(routing.with_applications(selection.names or ()))
        self._announce(
            job,
            layer,
            [*sorted(served), *(() if selection.only else selection.patterns(routing))],
            routing,
            options["verbosity"],
        )
        Supervisor(job).run()

    def _announce(
        self, job: Job, layer: DurableLayer, channels: Sequence[str], routing: Routing, verbosity: int
    ) -> None:
        if verbosity == 0 or sys.stdout is None:  # the parent process closed it
            return
        alias = job.layer or default_alias()
        processes = counted(job.processes, "process", "processes")
        threads = counted(job.threads or settings.threads, "thread")
        with suppress(BrokenPipeError):  # nobody reads it
            self.stdout.write(
                f"Worker {job.worker_id}: {processes} of {threads} on layer {alias!r} "
                f"({type(layer).__name__}), channels: {', '.join(channels)}"
            )
            if job.isolate and (batches := [c for c in channels if c in routing.with_batches]):
                self.stdout.write(f"Not isolated, as their consumers take batches: {', '.join(batches)}.")
            self.stdout.write(f"{routing.looked_for[0].upper()}{routing.looked_for[1:]}.")
            self.stdout.flush()


def _name(chosen: str | None, origin: Origin | None) -> str:
    """Return the worker's name. A successor gets a suffix, because both run for a while."""
    if chosen is None:
        return new_worker_id()
    return chosen if origin is None else f"{chosen}-{origin.generation + 1}"


def _check_shared(layer: DurableLayer) -> DurableLayer:
    if not layer.is_shared:
        raise CommandError(
            "The in-memory layer lives in one process: a worker of its own would never see a message. Use the "
            "database layer (leave CHANNEL_LAYERS out), or runserver, which runs a worker inside."
        )
    return layer


def _check_memory(limit: int | None) -> int | None:
    """Reject a limit below the memory of an idle process: it would be replaced after every message."""
    if limit is not None and limit <= (used := resident()):
        raise CommandError(
            f"A memory limit of {limit:,} bytes is too low: a process of this project takes {megabytes(used)} before "
            "it runs anything. Write a higher one, such as 300M, in --max-memory or MAILRAIL['MAX_MEMORY']."
        )
    return limit


def tell_concerns(layer: DurableLayer) -> None:
    """Log what may lose messages. If the server cannot be reached, start anyway: workers wait for it."""
    try:
        if layer.outbox and (lack := lacks_tables(layer.using)):
            logger.error("The outbox of the layer cannot be used. %s", lack)
        for concern in layer.concerns():
            logger.warning("%s", concern)
    except LayerUnavailable as error:
        logger.warning("cannot ask whether messages may be lost: %s", error)
    except InvalidSettings as error:
        raise CommandError(str(error)) from error


def tell_strangers(layer: DurableLayer) -> None:
    """Warn of workers of another project on this layer. If it cannot be asked, start anyway: workers wait for it."""
    try:
        descriptions = strangers(layer)
    except (LayerUnavailable, DatabaseError) as error:
        logger.debug("cannot ask for workers of other projects: %s", error)
    else:
        if descriptions:
            logger.warning("%s %s", Escaped(warning_of(descriptions)), HINT)


def _choose(routing: Routing, options: dict[str, Any]) -> Selection:
    """Return the channels to serve. Raises ``CommandError`` if there are none, or if one has no route."""
    is_empty = not routing.plans and not routing.patterns
    unknown = [
        name
        for name in options["channels"]
        if name not in routing and not routing.pattern_of(name) and not serves(name)
    ]
    if is_empty and (unknown or not options["channels"]):
        raise CommandError(
            'No channel is routed. Route one with @consumer("name") in an app\'s consumers.py, or with route() in the '
            "list that CHANNEL_LAYERS names; or name one that ASGI_APPLICATION has a consumer for. Here, "
            f"{routing.looked_for}."
        )
    if unknown:
        raise CommandError(routing.no_route_for(unknown[0]))
    names = tuple(dict.fromkeys(options["channels"])) or None
    selection = Selection(names, tuple(options["only_channels"]), tuple(options["exclude_channels"]))
    extended = routing.with_applications(names or ())
    if not selection.channels(extended) and not _may_be_found(selection, extended):
        of = ", ".join(names or sorted(routing.plans))
        raise CommandError(f"--only-channels and --exclude-channels leave none of these channels: {of}.")
    return selection


def _may_be_found(selection: Selection, routing: Routing) -> bool:
    """Tell whether a channel of a pattern that no globs exclude may hold messages later."""
    return bool(selection.patterns(routing)) and not (selection.only or selection.exclude)


def _set_up_logging(verbosity: int) -> None:
    """Show our log on the terminal, unless the project's LOGGING configures it."""
    logger = logging.getLogger("mailrail")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("{asctime} {levelname} {message}", style="{"))
    logger.addHandler(handler)
    logger.setLevel([logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG][verbosity])
