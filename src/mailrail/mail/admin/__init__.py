"""The admin: emails with their content and their fate, suppressed addresses, and mailers."""

from .emails import EmailAdmin
from .mailers import MailerStateAdmin
from .suppressions import SuppressionAdmin

__all__ = ["EmailAdmin", "MailerStateAdmin", "SuppressionAdmin"]
