"""The mail queue beside other ways to send email from Django: ``python -m benchmarks.run --on mail``.

Everything is on one PostgreSQL of our own; queues that need a broker get a Valkey. The email arrives at Postfix's
``smtp-sink``, or at a relay that is far away (benchmarks/relay.py).
"""
