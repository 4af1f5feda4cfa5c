"""The database layer on PostgreSQL: many workers on many machines, and sends inside your transactions."""

from .layer import PostgresqlLayer

__all__ = ["PostgresqlLayer"]
