"""How Sphinx builds these pages: ``make docs``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import django
from django.conf import settings
from docutils.nodes import Node, image
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import mailrail

# The reference is read out of the code, and that is a Django project's.
settings.configure(
    INSTALLED_APPS=[
        "mailrail",
        "mailrail.mail",
        "mailrail.invitations",
        "mailrail.tasks",
        "mailrail.schedule",
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

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["**/__pycache__"]

myst_enable_extensions = ["colon_fence"]
# Headings are linked to as on web sites that show the files themselves.
myst_heading_anchors = 3

# The button copies what is to be typed: commands without their prompt, and nothing of what they print.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_copy_empty_lines = False
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"

# Types in signatures are linked to where the reference has them, and only named where it has not.
nitpick_ignore_regex = [("py:class", ".*")]

# What is to be typed is shown as it is typed.
smartquotes = False

html_theme = "furo"
html_title = f"Mailrail {version}"
html_show_copyright = False


SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
"""What ``make screenshots`` has made, and ``make docs`` of the first page. Nothing generated is committed."""


class Screenshot(SphinxDirective):
    """A screenshot by its name, light or dark as the page; nothing where there is none. The content describes it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[Node]:
        paths = {kind: SCREENSHOTS / f"{self.arguments[0]}-{kind}.png" for kind in ("light", "dark")}
        if not all(path.exists() for path in paths.values()):
            logging.getLogger(__name__).info("no screenshot %s", self.arguments[0])
            return []
        text = " ".join(self.content)
        return [self._image(path, kind, text) for kind, path in paths.items()]

    def _image(self, path: Path, kind: str, text: str) -> Node:
        uri = os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)
        return image(uri=uri, alt=text, classes=[f"only-{kind}"])


class Described(SphinxDirective):
    """Its argument, as ``describe`` puts it into Markdown."""

    required_arguments = 1
    describe: Callable[[str], Iterator[str]]

    def run(self) -> list[Node]:
        return self.parse_text_to_nodes("\n".join(type(self).describe(self.arguments[0])))


def setup(app: Sphinx) -> None:
    app.add_directive("screenshot", Screenshot)
    for describe in (described.public, described.command, described.checks):
        made = type(describe.__name__, (Described,), {"describe": staticmethod(describe)})
        app.add_directive(describe.__name__, made)
