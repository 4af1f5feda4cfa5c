"""Show the channels and act on them: ``manage.py channels``."""

from __future__ import annotations

import json
import os
from argparse import SUPPRESS
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.core.management.color import no_style

from mailrail.applications import serves
from mailrail.cancelling import cancel_messages
from mailrail.conf import settings
from mailrail.errors import InvalidSettings, LayerUnavailable, MailrailError
from mailrail.health import look
from mailrail.layers import DurableLayer, get_layer
from mailrail.management.messages import dead_facts, pages_of_dead, waiting_facts, whole_error, whole_messages
from mailrail.messages import ChannelStats, check_channel_name
from mailrail.moments import for_people, from_timestamp
from mailrail.monitoring.screen import is_terminal
from mailrail.monitoring.watch import stream, watch
from mailrail.options import seconds_argument, whole_number_argument
from mailrail.pauses import Pause, describe_pause, os_user
from mailrail.piping import JsonCommand
from mailrail.project import strangers, warning_of
from mailrail.reconciliation import reconcilers
from mailrail.routing import Routing
from mailrail.selection import expand
from mailrail.signals import channel_paused, channel_resumed
from mailrail.terminal import counted, escape_control_characters

_COLUMNS = ("ready", "scheduled", "claimed", "dead", "oldest_due")


class Command(JsonCommand):
    help = (
        "Show the state of the channels, and act on them: waiting, dead, requeue, discard, cancel, pause, resume, "
        "workers, check, relay, reconcile."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument("--layer", help="Alias in CHANNEL_LAYERS (default: MAILRAIL['LAYER']).")
        parser.add_argument(
            "--watch",
            action="store_true",
            help="Show channels, mailers and workers anew each second, until Ctrl-C.",
        )
        actions = parser.add_subparsers(dest="action", metavar="action")
        for name, help in (
            ("waiting", "list waiting and running messages, with their last errors"),
            ("dead", "list dead messages"),
            ("requeue", "send dead messages again, with all their attempts"),
            ("discard", "remove dead messages"),
            ("cancel", "remove messages that no worker has claimed"),
            ("pause", "stop claims from the channel; its messages wait"),
            ("resume", "end a pause"),
        ):
            action = actions.add_parser(name, help=help)
            action.add_argument("channel", help="Its name; the name of a pattern means all its channels.")
            if name in ("requeue", "discard", "cancel"):
                action.add_argument("ids", nargs="*", type=UUID, metavar="id", help="Id of a message.")
            if name in ("requeue", "discard"):
                action.add_argument("--all", action="store_true", help="All dead messages of the channel.")
            if name == "pause":
                action.add_argument("--reason", default="", help="Why it is paused, for others to read.")
            if name in ("waiting", "dead"):
                action.add_argument("--limit", type=whole_number_argument, default=20, help="Default: 20.")
        actions.add_parser("workers", help="list the running workers")
        _add_check(actions)
        actions.add_parser("relay", help="relay the messages in the outbox now")
        _add_reconcile(actions)
        for action in actions.choices.values():  # so that both options may also follow the action
            action.add_argument("--json", action="store_true", default=SUPPRESS, help=SUPPRESS)
            action.add_argument("--layer", default=SUPPRESS, help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        self._json = options["json"]
        if options["watch"] and options["action"]:
            raise CommandError(f"--watch shows all channels: it does not go with {options['action']}.")
        try:
            layer = get_layer(options["layer"])
            if options.get("channel"):
                check_channel_name(options["channel"].removesuffix(".*"))
                options["channels"] = expand(options["channel"], options["layer"], layer.list_channels())
                self._check_known(layer, options)
            shown = "watch" if options["watch"] else "overview"
            act: Callable[..., None] = getattr(self, f"_{options['action'] or shown}")
            act(layer, options)
        except (MailrailError, ValueError) as error:
            raise CommandError(escape_control_characters(str(error))) from error

    # -- looking ------------------------------------------------------------------------------------------------

    def _overview(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        self._tell_strangers(layer)
        stats = layer.stats()
        routed = self._routed(options, stats)
        if layer.outbox is not None:
            stats |= layer.outbox.stats()
            routed |= {layer.outbox.channel}
        routed |= self._served(stats.keys() - routed)
        if self._json:
            self._print_json({name: _channel_facts(s, name in routed) for name, s in stats.items()})
            return
        rows = [
            (name, *(_number(getattr(s, column)) for column in _COLUMNS), _remarks(name in routed, s.pause))
            for name, s in stats.items()
        ]
        self.print_table(
            ("channel", "ready", "scheduled", "claimed", "dead", "oldest", ""),
            rows,
            "All channels are empty.",
        )
        if quiet := sorted(name for name in routed - stats.keys() if not name.startswith("mailrail.outbox.")):
            self.stdout.write(f"Empty: {', '.join(quiet)}")

    def _watch(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        if self._json:
            stream(self.stdout, options["layer"])
        elif is_terminal(self.stdout):
            style = no_style() if os.environ.get("NO_COLOR") else self.style  # https://no-color.org
            colours = {"bad": style.ERROR, "warn": style.WARNING, "ok": style.SUCCESS}
            watch(self.stdout, options["layer"], lambda severity, text: colours[severity](text))
        else:
            raise CommandError(
                "--watch redraws a terminal, and this is none: add --json, to print an object a second."
            )

    def _check_known(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        """Reject a misspelt name: otherwise people would believe that the channel is empty, or paused."""
        if options["channels"] != [options["channel"]]:
            return
        channel, stats = options["channel"], layer.stats()
        if layer.outbox is not None:
            stats |= layer.outbox.stats()
        known_channels = (
            self._routed(options, stats) | stats.keys() | ({layer.outbox.channel} if layer.outbox else set())
        )
        if (
            channel not in known_channels
            and not self._served([channel])
            and not layer.list_messages([channel], 1, "dead")
        ):
            raise CommandError(
                f"There is no channel {channel!r}: it has no route, no message, and is not paused. There are: "
                f"{', '.join(sorted(known_channels)) or 'none'}."
            )

    def _routed(self, options: dict[str, Any], known: Iterable[str]) -> set[str]:
        try:
            routing = Routing.of_layer(options["layer"])
            return {*routing.plans, *(channel for channel in known if channel in routing)}
        except InvalidSettings as error:
            self.stderr.write(escape_control_characters(f"The routing cannot be read: {error}"))
            return set()

    def _served(self, channels: Iterable[str]) -> set[str]:
        """Return the channels with a consumer in ASGI_APPLICATION; ``runworker`` serves them if they are named."""
        try:
            return {channel for channel in channels if serves(channel)}
        except InvalidSettings as error:
            self.stderr.write(escape_control_characters(str(error)))
            return set()

    def _workers(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        self._tell_strangers(layer)
        workers = layer.workers()
        if self._json:
            self._print_json([{"id": w.id, "age": round(w.age, 1), **w.info} for w in workers])
            return
        rows = [
            (
                w.id,
                *(str(w.info.get(fact, "")) for fact in ("host", "pid")),
                f"{w.age:.0f} s ago",
                f"{w.info.get('running', '')}{', stopping' if w.info.get('stopping') else ''}",
                ", ".join(w.info.get("channels", [])),
            )
            for w in workers
        ]
        head = ("worker", "host", "pid", "seen", "running", "channels")
        self.print_table(head, rows, "No workers are running.")

    def _tell_strangers(self, layer: DurableLayer) -> None:
        if descriptions := strangers(layer):
            self.stderr.write(escape_control_characters(warning_of(descriptions)))

    def _check(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        oldest = options["oldest"]
        limit = settings.ready_oldest_due if oldest is None else oldest
        # With --here it probes the workers of a container, which an outage of a mail server must not restart.
        outages_from = 0.0 if oldest is None and not options["here"] else limit
        readiness = look(
            options["layer"], limit, options["workers"], here=options["here"], outages_from=outages_from
        )
        problems = [*(problem.detail for problem in readiness.problems), *self._unreadable(layer)]
        if self._json or not problems:
            text = f"OK: {counted(readiness.workers, 'worker')} running"
            self._say(text, well=not problems, problems=problems, workers=readiness.workers)
        if problems:
            raise CommandError(escape_control_characters("; ".join(problems)))

    def _unreadable(self, layer: DurableLayer) -> list[str]:
        try:
            return layer.unreadable()
        except LayerUnavailable as error:
            return [str(error)]

    def _waiting(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        listed = layer.list_messages(options["channels"], options["limit"])
        rows = [waiting_facts(message, whole_error(layer, message)) for message in listed]
        if self._json:
            self._print_json(rows)
            return
        for row in rows:
            due = for_people(row["due"])
            self.stdout.write(f"{row['id']}  {row['state']}  due {due}  attempt {row['attempt']}")
            self.stdout.write(f"  {escape_control_characters(row['content'][:200])}")
            if row["error"]:
                self.stdout.write(
                    "  " + escape_control_characters(row["error"].strip()).replace("\n", "\n  ") + "\n"
                )
        if not rows:
            self.stdout.write(f"No messages wait on {options['channel']}.")

    def _dead(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        listed = layer.list_messages(options["channels"], options["limit"], "dead")
        dead = [
            message for channel in options["channels"] for message in whole_messages(layer, channel, listed)
        ]
        dead.sort(key=lambda message: -(message.buried_at or 0.0))
        if self._json:
            self._print_json([dead_facts(d) for d in dead])
            return
        for d in dead:
            facts = dead_facts(d)
            self.stdout.write(
                f"{facts['id']}  buried {for_people(facts['buried_at'])}  attempt {facts['attempt']}"
            )
            self.stdout.write(
                f"  {escape_control_characters(json.dumps(facts['content'], ensure_ascii=False)[:200])}"
            )
            self.stdout.write("  " + escape_control_characters(d.error.strip()).replace("\n", "\n  ") + "\n")
        if not dead:
            self.stdout.write(f"No dead messages on {options['channel']}.")

    # -- acting -------------------------------------------------------------------------------------------------

    def _requeue(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        self._act_on_dead(layer, layer.requeue, "requeued", options)

    def _discard(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        self._act_on_dead(layer, layer.discard, "discarded", options)

    def _act_on_dead(
        self,
        layer: DurableLayer,
        verb: Callable[[str, Iterable[UUID]], list[UUID]],
        done: str,
        options: dict[str, Any],
    ) -> None:
        if bool(options["ids"]) == options["all"]:
            raise CommandError("Name the ids of dead messages (see: channels dead NAME), or give --all.")
        done_ids: list[UUID] = []
        for channel in options["channels"]:
            pages = pages_of_dead(layer, channel) if options["all"] else iter([options["ids"]])
            done_ids += [id for page in pages for id in verb(channel, page)]
        self._say_which(done_ids, done, options)

    def _cancel(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        if not options["ids"]:
            raise CommandError("Name the ids of the messages to cancel.")
        cancelled = [
            id for channel in options["channels"] for id in cancel_messages(layer, channel, options["ids"])
        ]
        self._say_which(cancelled, "cancelled", options)

    def _pause(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        by, reason = os_user(), options["reason"]
        for channel in options["channels"]:
            layer.pause(channel, by, reason)
            channel_paused.send_robust(channel, by=by, reason=reason)
        names = ", ".join(options["channels"])
        is_paused = "is paused" if len(options["channels"]) == 1 else "are paused"
        self._say(f"{names} {is_paused}: messages are kept, and nobody claims them.", paused=True)

    def _resume(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        for channel in options["channels"]:
            layer.resume(channel)
            channel_resumed.send_robust(channel)
        names = ", ".join(options["channels"])
        if len(options["channels"]) == 1:
            self._say(f"{names} is resumed: workers claim its messages again.", paused=False)
        else:
            self._say(f"{names} are resumed: workers claim their messages again.", paused=False)

    def _say_which(self, ids: list[UUID], done: str, options: dict[str, Any]) -> None:
        """Report the messages acted on. If some were not found, fail, so that scripts notice."""
        missing = [str(id) for id in options["ids"] if id not in ids]
        self._say(f"{len(ids)} {done}", **{done: [str(id) for id in ids], "not_found": missing})
        if missing:
            condition = "nobody has started" if done == "cancelled" else "are dead"
            raise CommandError(
                f"Not found among the messages of {options['channel']} that {condition}: {', '.join(missing)}"
            )

    def _relay(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        if layer.outbox is None:
            raise CommandError(
                'This layer has no outbox: there is nothing to relay. The Redis layer gets one by "outbox": True in '
                "its CONFIG."
            )
        relayed = layer.outbox.relay()
        self._say(f"{relayed} relayed", relayed=relayed)

    def _reconcile(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        Routing.of_layer(options["layer"])  # imports the modules that register reconcilers
        found_reconcilers = reconcilers(layer)
        if not found_reconcilers:
            raise CommandError(
                "No app says which records should have a message on this layer: see mailrail.reconciliation.reconcile."
            )
        sent = {reconciler.name: reconciler.run(options["older_than"]) for reconciler in found_reconcilers}
        self._say("\n".join(f"{name}: {number} sent again" for name, number in sent.items()), sent=sent)


def _add_reconcile(actions: Any) -> None:
    action = actions.add_parser("reconcile", help="send the missing messages of records now")
    action.add_argument(
        "--older-than",
        type=seconds_argument,
        metavar="SECONDS",
        help="Skip younger records (default: set by each app).",
    )


def _add_check(actions: Any) -> None:
    action = actions.add_parser(
        "check",
        help="fail unless the layer answers, messages and mail are in time, mailers work, and workers run",
    )
    action.add_argument(
        "--oldest",
        type=seconds_argument,
        metavar="SECONDS",
        help="Longest time that a message or an email may be due, or a mailer out (default: "
        "MAILRAIL['READY_OLDEST_DUE'], and no time for a mailer).",
    )
    action.add_argument(
        "--workers",
        type=whole_number_argument,
        default=1,
        metavar="N",
        help="Fewest worker processes (default: 1).",
    )
    action.add_argument(
        "--here", action="store_true", help="Count only workers on this machine, or in this container."
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} s" if isinstance(value, float) else f"{value:,}"


def _channel_facts(stats: ChannelStats, routed: bool) -> dict[str, Any]:
    pause: dict[str, Any] | None = None
    if stats.pause is not None:
        pause = {**asdict(stats.pause), "since": from_timestamp(stats.pause.since or 0.0)}
    return {**asdict(stats), "paused": stats.paused, "pause": pause, "routed": routed}


def _remarks(routed: bool, pause: Pause | None) -> str:
    pauses = [] if pause is None else [f"paused {describe_pause(pause)}"]
    return ", ".join(pauses + ["no route"] * (not routed))
