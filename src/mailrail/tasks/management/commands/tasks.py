"""Show tasks and act on them: ``manage.py tasks``."""

from __future__ import annotations

import json
from argparse import SUPPRESS
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from mailrail.errors import MailrailError
from mailrail.moments import for_people, from_now
from mailrail.options import days_argument, whole_number_argument
from mailrail.piping import JsonCommand
from mailrail.tasks import control, overview, retention
from mailrail.tasks.control import TaskChanges
from mailrail.tasks.models import FAILED, STATUSES, UNFINISHED, TaskRecord
from mailrail.tasks.queues import used_databases
from mailrail.terminal import counted, escape_control_characters, single_line


class Command(JsonCommand):
    help = "Show tasks, the newest first, and act on them: list, show, retry, cancel, prune."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        actions = parser.add_subparsers(dest="action", metavar="action")
        listing = actions.add_parser("list", help="list tasks, the newest first")
        listing.add_argument("--limit", type=whole_number_argument, default=20, help="Default: 20.")
        listing.add_argument("--status", choices=[status for status, _ in STATUSES], help="Only these.")
        actions.add_parser("show", help="show all that is known of tasks")
        actions.add_parser("retry", help="run tasks that have failed again, with all their attempts")
        actions.add_parser("cancel", help="cancel tasks that wait or run")
        for name in ("show", "retry", "cancel"):
            several = "+" if name == "show" else "*"
            actions.choices[name].add_argument(
                "ids", nargs=several, type=UUID, metavar="id", help="Id of a task."
            )
        actions.choices["retry"].add_argument("--all", action="store_true", help="All that have failed.")
        actions.choices["cancel"].add_argument("--all", action="store_true", help="All that wait or run.")
        kill = "Kill the processes of those that run by isolate=True or runworker --isolate."
        actions.choices["cancel"].add_argument("--hard", action="store_true", help=kill)
        for name in ("list", "retry", "cancel"):
            actions.choices[name].add_argument("--task", help="Only of this dotted path.")
            actions.choices[name].add_argument("--queue", help="Only of this queue.")
        prune = actions.add_parser("prune", help="remove the results that have been kept long enough")
        prune.add_argument(
            "--older-than",
            type=days_argument,
            metavar="DAYS",
            help="Instead: all results of tasks that ended that long ago.",
        )
        for action in actions.choices.values():  # so that the option may also follow the action
            action.add_argument("--json", action="store_true", default=SUPPRESS, help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        self._json = options["json"]
        if options["action"] is None:
            options |= {"limit": 20, "status": None, "task": None, "queue": None}
        act: Callable[..., None] = getattr(self, f"_{options['action'] or 'list'}")
        try:
            act(options)
        except MailrailError as error:
            raise CommandError(escape_control_characters(str(error))) from error

    # -- looking ------------------------------------------------------------------------------------------------

    def _list(self, options: dict[str, Any]) -> None:
        rows = [overview.summary(record) for record in overview.newest(options["limit"], **_chosen(options))]
        if self._json:
            self._print_json(rows)
            return
        is_all = not _chosen(options)
        self.print_table(
            ("task", "status", "function", "queue", "attempts", "enqueued", "last error"),
            [_row(row) for row in rows],
            "There are no tasks." if is_all else "There are no such tasks.",
        )

    def _show(self, options: dict[str, Any]) -> None:
        found = {id: control.find(id) for id in options["ids"]}
        records = [pair[0] for pair in found.values() if pair is not None]
        if self._json:
            self._print_json([overview.details(record) for record in records])
        else:
            for record in records:
                self._print(record)
        if missing := [str(id) for id, pair in found.items() if pair is None]:
            raise CommandError(f"There is no such task: {', '.join(missing)}")

    def _print(self, record: TaskRecord) -> None:
        facts = overview.details(record)
        for name, value in facts.items():
            if name not in ("error", "errors", "steps") and value not in (None, "", {}, []):
                self.stdout.write(single_line(f"{name}: {_plain(value)}"))
        for step in facts["steps"]:
            when, value = for_people(step["finished_at"]), _plain(step["value"])
            self.stdout.write(single_line(f"step {step['name']}: {when}: {value}"))
        for number, error in enumerate(facts["errors"], 1):
            self.stdout.write(single_line(f"error {number}: {error.get('class', '')}"))
            text = escape_control_characters(str(error.get("traceback", "")).strip())
            self.stdout.write("  " + text.replace("\n", "\n  "))
        self.stdout.write("")

    # -- acting -------------------------------------------------------------------------------------------------

    def _retry(self, options: dict[str, Any]) -> None:
        self._change(control.retry_all, "retried", options, status=FAILED)

    def _cancel(self, options: dict[str, Any]) -> None:
        self._change(
            partial(control.cancel_all, hard=options["hard"]), "cancelled", options, status__in=UNFINISHED
        )

    def _change(
        self,
        change: Callable[[Iterable[UUID]], TaskChanges],
        done: str,
        options: dict[str, Any],
        **of_all: Any,
    ) -> None:
        chosen = _chosen(options)
        if bool(options["ids"]) == options["all"] or (options["ids"] and chosen):
            raise CommandError(
                "Name the ids of tasks (see: tasks list), or give --all, which --task and --queue narrow."
            )
        pages = overview.pages_of_ids(**of_all, **chosen) if options["all"] else [options["ids"]]
        changes = [change(page) for page in pages]
        ids = [str(id) for changed in changes for id in changed.done]
        refused = {str(id): reason for changed in changes for id, reason in changed.refused.items()}
        self._say(f"{len(ids):,} {done}", **{done: ids, "refused": refused})
        if refused and options["ids"]:
            reasons = "; ".join(f"{id}: {reason}" for id, reason in refused.items())
            raise CommandError(f"Not {done}: {reasons}")
        for reason, count in Counter(
            refused.values()
        ).items():  # with --all no error, as they have changed since
            self.stderr.write(f"{count:,} not {done}: {reason}")

    def _prune(self, options: dict[str, Any]) -> None:
        age = options["older_than"]
        removed = 0
        for using in used_databases():
            if age is None:
                removed += retention.prune(using)
            else:
                removed += retention.prune_ended(using, from_now(-age.total_seconds()))
        self._say(f"{counted(removed, 'result')} removed", removed=removed)


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions that options ask for."""
    names = ("status", "task", "queue")
    return {name: options[name] for name in names if options.get(name) is not None}


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    is_stopping = row["cancelled_at"] is not None and row["finished_at"] is None
    status = f"{row['status']}{', cancelled' if is_stopping else ', held' if row['held'] else ''}"
    enqueued = for_people(row["enqueued_at"])
    return row["id"], status, row["task"], row["queue"], str(row["attempts"]), enqueued, row["error"][:100]


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return for_people(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
