"""Deliver emails: load what was queued, hand it to a transport, and store what became of it."""
