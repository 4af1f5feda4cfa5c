"""Run a development server with a worker inside: ``manage.py runserver`` of the next app or of Django."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandParser
from django.core.management.commands.runserver import Command as DjangoCommand

from mailrail.management.next_command import add_noworker, next_command
from mailrail.worker.development import DevelopmentWorker

if TYPE_CHECKING:
    Next = DjangoCommand
else:
    Next = next_command("runserver", DjangoCommand)


class Command(Next):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add_noworker(parser)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Serve with a worker. Each process of the autoreloader calls this once, so the worker has the new code."""
        if not options.get("use_worker", True):
            super().inner_run(*args, **options)
            return
        with DevelopmentWorker(self.stderr.write):
            super().inner_run(*args, **options)
