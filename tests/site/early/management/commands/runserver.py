"""Extends the runserver of the next app, as whitenoise.runserver_nostatic does."""

from typing import Any

from mailrail.management.commands.runserver import Command as Next


class Command(Next):
    def inner_run(self, *args: Any, **options: Any) -> None:
        self.stdout.write("The early app's runserver.")
        super().inner_run(*args, **options)
