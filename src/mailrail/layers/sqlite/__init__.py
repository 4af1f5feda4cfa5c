"""The database layer's store on SQLite: for one machine, with no server to install."""

from .store import SqliteStore

__all__ = ["SqliteStore"]
