"""Observe the channels, mailers, workers and long work of a project, for people on call.

``manage.py channels --watch`` and ``mailrail.dashboard`` show the same facts (``facts``). Apps register what they know.
"""
