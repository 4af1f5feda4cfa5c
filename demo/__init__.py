"""A small project that invites people by email; ``python demo/run.py`` shows it at work."""
