"""The Redis layer: durable, fenced, for many machines. Runs on Redis 7 and Valkey 8 and up."""

from .layer import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
