"""Name what ``waiting`` has."""

from .waiting import add as add
from .waiting import close as close
from .waiting import reopen as reopen
