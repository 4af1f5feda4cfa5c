"""Show the live page, ``mailrail.dashboard``: channels, mail, workers, long work and troubles as they are now.

``path("mailrail/", include("mailrail.dashboard.urls"))`` has the page. Its numbers are those of
``mailrail.monitoring``.
"""
