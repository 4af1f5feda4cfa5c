"""The database layer's store on PostgreSQL: many workers on many machines, and sends inside your transactions."""

from .store import PostgresqlStore

__all__ = ["PostgresqlStore"]
