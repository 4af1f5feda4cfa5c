"""What Django has from 6.0 on, as far as tests need it: the policy of ``SECURE_CSP``, without nonces."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse


class ContentSecurityPolicyMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        policy = getattr(settings, "SECURE_CSP", {})
        if policy and "Content-Security-Policy" not in response:
            parts = (f"{directive} {' '.join(sources)}" for directive, sources in policy.items())
            response["Content-Security-Policy"] = "; ".join(parts)
        return response
