"""An app of the benchmarks' project."""

from __future__ import annotations

from django.apps import AppConfig


class MailBenchmarks(AppConfig):
    name = "benchmarks.mail"
    label = "benchmarks_mail"
