"""What a project would write instead: an ordinary model whose row is like a message's."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Row(models.Model):
    """Has no migrations; ``run`` creates its table."""

    id = models.CharField(max_length=32, primary_key=True)
    channel = models.CharField(max_length=99)
    content = models.TextField()
    due = models.DateTimeField()
    sent_at = models.DateTimeField()

    objects: ClassVar[models.Manager[Row]] = models.Manager()

    class Meta:
        indexes = (models.Index(fields=["channel", "due"], name="benchmarks_row_due"),)

    def __str__(self) -> str:
        return self.id
