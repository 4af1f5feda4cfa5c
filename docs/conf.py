"""How Sphinx builds these pages: ``make docs``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import django
from django.conf import settings
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import mailrail

# The reference is read out of the code, and that is a Django project's.
settings.configure(
    INSTALLED_APPS=[
        "mailrail",
        "mailrail.mail",
        "mailrail.invitations",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
    ],
    USE_TZ=True,
)
django.setup()

sys.path.insert(0, str(Path(__file__).parent))
import described  # noqa: E402 - needs the settings

project = "Mailrail"
author = "The Mailrail developers"
version = release = mailrail.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_design"]
exclude_patterns = ["**/__pycache__"]

myst_enable_extensions = ["colon_fence"]
# Headings are linked to as on web sites that show the files themselves.
myst_heading_anchors = 3

# Types in signatures are linked to where the reference has them, and only named where it has not.
nitpick_ignore_regex = [("py:class", ".*")]

# What is to be typed is shown as it is typed.
smartquotes = False

html_theme = "furo"
html_title = f"Mailrail {version}"
html_show_copyright = False


class Described(SphinxDirective):
    """Its argument, as ``describe`` puts it into Markdown."""

    required_arguments = 1
    describe: Callable[[str], Iterator[str]]

    def run(self) -> list[Node]:
        return self.parse_text_to_nodes("\n".join(type(self).describe(self.arguments[0])))


def setup(app: Sphinx) -> None:
    for describe in (described.public, described.command, described.checks):
        made = type(describe.__name__, (Described,), {"describe": staticmethod(describe)})
        app.add_directive(describe.__name__, made)
