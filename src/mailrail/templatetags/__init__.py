"""Template tags: ``{% load mailrail %}``."""
