"""Show the schedule and act on it: ``manage.py schedule``."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from mailrail.errors import MailrailError
from mailrail.options import seconds_argument, whole_number_argument
from mailrail.piping import JsonCommand
from mailrail.schedule import control, overview
from mailrail.schedule.celery_beat import PlannedEntry, apply_import, plan_import
from mailrail.schedule.changing import change
from mailrail.schedule.choices import MISSED, OVERLAP
from mailrail.schedule.control import EntryStatus
from mailrail.schedule.zones import zone_data
from mailrail.terminal import counted, escape_control_characters, single_line

_COLUMNS = ("cron", "zone", "seconds", "missed", "overlap", "jitter")


class Command(JsonCommand):
    help = "Show the schedule, and act on its entries: list, run, pause, resume, change, import-celery-beat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        actions = parser.add_subparsers(dest="action", metavar="action")
        actions.add_parser("list", help="list the entries, their next five runs and their last one")
        actions.add_parser("run", help="run entries now, beside their ticks")
        actions.add_parser("pause", help="pause entries: their ticks are skipped").add_argument(
            "--reason", default="", help="For people who look at it."
        )
        actions.add_parser("resume", help="resume paused entries; ticks of the pause are not run")
        for name in ("run", "pause", "resume"):
            actions.choices[name].add_argument("names", nargs="+", metavar="name", help="Name of an entry.")
        _add_change(actions)
        _add_import(actions)
        for action in actions.choices.values():  # so that the option may also follow the action
            action.add_argument("--json", action="store_true", default=SUPPRESS, help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        self._json = options["json"]
        action = (options["action"] or "list").replace("-", "_")
        act: Callable[..., None] = getattr(self, f"_{action}")
        try:
            act(options)
        except (MailrailError, ValueError) as error:
            raise CommandError(escape_control_characters(str(error))) from error

    # -- looking ------------------------------------------------------------------------------------------------

    def _list(self, options: dict[str, Any]) -> None:
        found = control.entries()
        states, data = overview.last_states(found), zone_data()
        if self._json:
            entries = [overview.summary(entry, states) for entry in found]
            self._print_json({"entries": entries, "zone_data": [*map(asdict, data)]})
            return
        for entry in found:
            self.stdout.write("\n".join([*map(single_line, overview.lines(entry, states)), ""]))
        if not found:
            self.stdout.write("The schedule has no entries.")
        self.stdout.write(f"Time zones: {data[0] if data else 'none'}")
        if data and data[0].is_package and len(data) > 1 and data[1].version != data[0].version:
            self.stdout.write(f"The rest of this project uses {data[1]}.")

    # -- acting -------------------------------------------------------------------------------------------------

    def _run(self, options: dict[str, Any]) -> None:
        ids = {entry.name: control.run_now(entry.name) for entry in _found(options["names"])}
        text = "\n".join(f"{single_line(name)}: {id}" for name, id in ids.items())
        self._say(text, run={name: str(id) for name, id in ids.items()})

    def _pause(self, options: dict[str, Any]) -> None:
        names = [e.name for e in _found(options["names"]) if control.pause(e.name, reason=options["reason"])]
        self._say(f"{counted(len(names), 'entry', 'entries')} paused", paused=names)

    def _resume(self, options: dict[str, Any]) -> None:
        names = [entry.name for entry in _found(options["names"]) if control.resume(entry.name)]
        self._say(f"{counted(len(names), 'entry', 'entries')} resumed", resumed=names)

    def _change(self, options: dict[str, Any]) -> None:
        values = {column: options[column] for column in _COLUMNS if options[column] is not None}
        if not values:
            raise CommandError("Say what to change: --cron, --tz, --every, --missed, --overlap or --jitter.")
        change(options["name"], values)
        entry = control.find(options["name"])
        states = overview.last_states([entry])
        if self._json:
            self._print_json(overview.summary(entry, states))
        else:
            self.stdout.write("\n".join(map(single_line, overview.lines(entry, states))))

    def _import_celery_beat(self, options: dict[str, Any]) -> None:
        planned = plan_import(options["database"], dict(options["task"]))
        number = apply_import(planned) if options["apply"] else 0
        if self._json:
            self._print_json({"applied": options["apply"], "rows": [_imported(each) for each in planned]})
            return
        for each in planned:
            self.stdout.write("\n".join(map(single_line, _lines(each))))
        possible = sum(each.entry is not None for each in planned)
        if options["apply"]:
            self.stdout.write(
                f"{counted(number, 'entry', 'entries')} made of {counted(len(planned), 'row')}."
            )
        else:
            self.stdout.write(
                f"{counted(possible, 'entry', 'entries')} can be made of {counted(len(planned), 'row')}. Nothing was "
                "written: to do it, give --apply. Stop beat first, as otherwise both run them."
            )


def _add_change(actions: Any) -> None:
    action = actions.add_parser(
        "change", help="change an entry of the admin; ticks of new times count from now"
    )
    action.add_argument("name", help="Name of the entry.")
    times = action.add_mutually_exclusive_group()
    times.add_argument("--cron", help="Cron expression of five fields.")
    times.add_argument(
        "--every", dest="seconds", type=whole_number_argument, metavar="SECONDS", help="Instead: so often."
    )
    action.add_argument("--tz", dest="zone", metavar="ZONE", help='Time zone; "" means TIME_ZONE.')
    action.add_argument(
        "--missed", choices=[name for name, _ in MISSED], help="What becomes of missed ticks."
    )
    action.add_argument(
        "--overlap",
        choices=[name for name, _ in OVERLAP],
        help="What to do while the last run has not ended.",
    )
    action.add_argument(
        "--jitter",
        type=seconds_argument,
        metavar="SECONDS",
        help="Delay each run at random, by so many at most.",
    )


def _add_import(actions: Any) -> None:
    action = actions.add_parser(
        "import-celery-beat", help="make entries of the rows of django-celery-beat 2.9"
    )
    action.add_argument("--apply", action="store_true", help="Do it; without, say what would be done.")
    action.add_argument("--database", default="default", help="Alias of the database with its tables.")
    action.add_argument(
        "--task",
        action="append",
        default=[],
        type=_renamed,
        metavar="OLD=NEW",
        help="Path of the task that takes the place of one of Celery. May be repeated.",
    )


def _renamed(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise ArgumentTypeError(f"must be OLD=NEW, two names of tasks, not {text!r}")
    return old, new


def _found(names: Iterable[str]) -> list[EntryStatus]:
    """Return the entries of these names, before anything is done to one. Raises ``UnknownEntry``."""
    return [control.find(name) for name in dict.fromkeys(names)]


def _lines(planned: PlannedEntry) -> list[str]:
    """Return what becomes of a row of beat, as lines for people."""
    if planned.entry is None or planned.definition is None:
        return [f"{planned.name}: left out, {planned.refusal}"]
    is_off = ", off" if planned.entry.paused_at is not None else ""
    what = overview.in_words(planned.definition)
    return [f"{planned.name}: {what}{is_off}", *(f"  {note}" for note in planned.notes)]


def _imported(planned: PlannedEntry) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": planned.name, "refusal": planned.refusal, "notes": [*planned.notes]}
    if planned.entry is not None and planned.definition is not None:
        facts |= {"on": planned.entry.paused_at is None, **overview.what(planned.definition)}
    return facts
