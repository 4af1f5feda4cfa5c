"""Know which batch a call enqueues for: that of the block around it, on the thread of the block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import UUID


@dataclass(eq=False, slots=True)
class Block:
    """A block that enqueues for a batch. A context may be copied, and outlive the block and its transaction."""

    id: UUID
    using: str
    thread: int = field(default_factory=threading.get_ident)
    is_over: bool = False


_block: ContextVar[Block | None] = ContextVar("mailrail_tasks_block", default=None)
_kept_open: ContextVar[frozenset[UUID]] = ContextVar("mailrail_tasks_kept_open", default=frozenset())


def current_block() -> Block | None:
    """Return the block whose batch tasks join that are enqueued here."""
    block = _block.get()
    if block is None or block.is_over or block.thread != threading.get_ident():
        return None
    return block


@contextmanager
def filling(id: UUID, using: str) -> Iterator[None]:
    """Let what the block enqueues join the batch, which does not end before the block does."""
    block = Block(id, using)
    token = _block.set(block)
    try:
        with kept_open(id):
            yield
    finally:
        block.is_over = True
        _block.reset(token)


@contextmanager
def outside_batches() -> Iterator[None]:
    """Let what the block enqueues join no batch."""
    token = _block.set(None)
    try:
        yield
    finally:
        _block.reset(token)


@contextmanager
def kept_open(id: UUID) -> Iterator[None]:
    """Keep this thread from ending the batch while the block changes its members."""
    token = _kept_open.set(_kept_open.get() | {id})
    try:
        yield
    finally:
        _kept_open.reset(token)


def is_kept_open(id: UUID) -> bool:
    """Tell whether a block on this thread keeps the batch open."""
    return id in _kept_open.get()
