"""The first page: where everything is."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """Link what this user may see: the invitations, the inbox, the live page and the admin."""
    return render(request, "home.html")
