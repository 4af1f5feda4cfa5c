"""The database layer on SQLite: one file, one machine, nothing to install."""

from .layer import SqliteLayer

__all__ = ["SqliteLayer"]
