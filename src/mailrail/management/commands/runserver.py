"""``manage.py runserver``: the next app's (Daphne's, staticfiles') or Django's own, with a worker inside."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.management.base import CommandParser
from django.core.management.commands.runserver import Command as DjangoCommand

from mailrail.worker.development import DevelopmentWorker

if TYPE_CHECKING:
    Next = DjangoCommand
else:

    def _next_command() -> type[DjangoCommand]:
        """The first ``runserver`` of the apps that come after us. One that comes before may extend ours."""
        names = [config.name for config in apps.get_app_configs()]
        for name in names[names.index("mailrail") + 1 :]:
            path = f"{name}.management.commands.runserver"
            if _exists(path):
                return import_module(path).Command
        return DjangoCommand

    def _exists(path: str) -> bool:
        try:
            return find_spec(path) is not None
        except ModuleNotFoundError:  # the app has no management package
            return False

    Next = _next_command()


class Command(Next):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--noworker",
            action="store_false",
            dest="use_worker",
            help="Tells Mailrail to NOT run a worker along with the server.",
        )

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Run once by each process the autoreloader starts, so that the worker has the new code, too."""
        if not options.get("use_worker", True):
            super().inner_run(*args, **options)
            return
        with DevelopmentWorker(self.stderr.write):
            super().inner_run(*args, **options)
