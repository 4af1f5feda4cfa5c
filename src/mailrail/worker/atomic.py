"""Let a consumer commit what it writes together with the end of its message, or with what it keeps of a step."""

from __future__ import annotations

from .consume import finishing as finishing
from .consume import undoable_transaction as undoable_transaction
