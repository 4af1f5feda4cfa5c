"""Where the demo's mail ends up while somebody develops: in a folder, and on a page of the site."""

from __future__ import annotations

from .backend import EmailBackend

__all__ = ["EmailBackend"]
