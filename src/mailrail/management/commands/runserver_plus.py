"""Run the server of django-extensions with a worker inside: ``manage.py runserver_plus``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from mailrail.autoreload import failed_files
from mailrail.management.next_command import add_noworker, next_command
from mailrail.worker.development import DevelopmentWorker


class _Missing(BaseCommand):
    help = "Needs django-extensions."

    def run_from_argv(self, argv: list[str]) -> None:
        # Without its options: they are unknown here and would hide the real error.
        super().run_from_argv(argv[:2])

    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError(
            "runserver_plus is django-extensions': pip install django-extensions werkzeug, and add "
            '"django_extensions" to INSTALLED_APPS, behind "mailrail". Django\'s own is runserver.'
        )


if TYPE_CHECKING:

    class Next(BaseCommand):
        def inner_run(self, options: dict[str, Any]) -> None: ...

else:
    Next = next_command("runserver_plus", _Missing)


class Command(Next):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add_noworker(parser)

    def inner_run(self, options: dict[str, Any]) -> None:
        """Serve with a worker, except in the process of werkzeug's reloader that only starts another one."""
        serves = not options["use_reloader"] or os.environ.get("WERKZEUG_RUN_MAIN") == "true"
        if not (serves and options.get("use_worker", True)):
            super().inner_run(options)
            return
        with DevelopmentWorker(self.stderr.write):
            # Werkzeug watches imported modules only, so it needs the files whose import failed.
            extra_files = [*options["extra_files"], *map(str, failed_files())]
            super().inner_run({**options, "extra_files": extra_files})
