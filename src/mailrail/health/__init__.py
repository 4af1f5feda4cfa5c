"""Check liveness and readiness, for load balancers, orchestrators and monitoring.

``path("", include("mailrail.health.urls"))`` has the pages ``/healthz`` and ``/readyz``; for a shell there is
``manage.py channels check``. Both apply the rules of ``look``, as ``mailrail.monitoring`` does. Apps add theirs by
``register`` and ``register_outages``.
"""

from __future__ import annotations

from .readiness import Readiness, look
from .rules import Problem, register, register_outages

__all__ = ["Problem", "Readiness", "look", "register", "register_outages"]
