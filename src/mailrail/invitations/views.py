"""The pages of an inviting person (list, create, bulk, progress) and of an invited one (accept)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.paginator import Page, Paginator
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.generic import CreateView, FormView, ListView

from .forms import BulkInvitationForm, InvitationForm
from .models import Invitation


class OwnInvitations(LoginRequiredMixin):
    """A view of the invitations that the logged-in user sent, and of nobody else's."""

    request: HttpRequest

    def get_queryset(self) -> QuerySet[Invitation]:
        return Invitation.objects.filter(sender_id=self.request.user.pk)

    def progress(self) -> dict[str, int]:
        """Return how many there are (``total``) and how many of them were mailed (``sent``)."""
        return self.get_queryset().order_by().aggregate(total=Count("pk"), sent=Count("sent"))


class InvitationList(OwnInvitations, ListView):  # type: ignore[type-arg]  # generic only for the type checker
    """The newest first, a page at a time, and how many are on their way."""

    template_name = "mailrail_invitations/list.html"
    context_object_name = "invitations"
    paginate_by = 50

    def paginate_queryset(self, queryset: Any, page_size: int) -> tuple[Paginator[Any], Page[Any], Any, bool]:
        """Show the nearest page to one that does not exist: rows may have gone since the link was made."""
        paginator = self.get_paginator(queryset, page_size)
        page = paginator.get_page(self.request.GET.get(self.page_kwarg))
        return paginator, page, page.object_list, page.has_other_pages()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(progress=self.progress(), **kwargs)


class InvitationProgress(OwnInvitations, View):
    """The progress as JSON: ``{"total": 501, "sent": 17}``."""

    @method_decorator(never_cache)
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(self.progress())


class InvitationCreate(LoginRequiredMixin, CreateView):  # type: ignore[type-arg]
    """Invite one person."""

    form_class = InvitationForm
    model = Invitation
    template_name = "mailrail_invitations/create.html"
    success_url = reverse_lazy("mailrail_invitations:list")

    def form_valid(self, form: InvitationForm) -> HttpResponse:  # type: ignore[override]
        form.instance.sender = self.request.user
        response = super().form_valid(form)
        text = _("The invitation for %(email)s is on its way.") % {"email": form.instance.email}
        messages.success(self.request, text, fail_silently=True)  # the messages app is optional
        return response


class InvitationBulkCreate(LoginRequiredMixin, FormView):  # type: ignore[type-arg]
    """Invite everybody on a list."""

    form_class = BulkInvitationForm
    template_name = "mailrail_invitations/bulk.html"
    success_url = reverse_lazy("mailrail_invitations:list")

    def form_valid(self, form: BulkInvitationForm) -> HttpResponse:
        assert self.request.user.is_authenticated  # LoginRequiredMixin lets nobody else in
        count = len(form.save(self.request.user))
        text = ngettext(
            "%(count)d invitation is on its way.", "%(count)d invitations are on their way.", count
        )
        messages.success(self.request, text % {"count": count}, fail_silently=True)
        return super().form_valid(form)


def keeps_its_address(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Have browsers tell no other site the address of the page, which holds the key.

    Not ``no-referrer``: with that, browsers post the page's own form with ``Origin: null`` (Fetch standard,
    "append a request `Origin` header"), and Django's CSRF protection refuses it.
    """

    @wraps(view)
    def wrapped(*args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(*args, **kwargs)
        response["Referrer-Policy"] = "same-origin"
        return response

    return wrapped


@method_decorator([never_cache, keeps_its_address, csrf_protect], name="dispatch")
class InvitationAccept(View):
    """The page that the link in the email opens. Opening it changes nothing (mail scanners do), the form does."""

    http_method_names = ("get", "head", "post", "options")

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        try:
            invitation = Invitation.objects.get_by_key(key)
        except Invitation.DoesNotExist:
            return self._not_found(request)
        return render(request, "mailrail_invitations/accept.html", {"invitation": invitation})

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        try:
            Invitation.objects.get_by_key(key).accept()
        except Invitation.DoesNotExist:
            return self._not_found(request)
        return redirect("mailrail_invitations:accept", key=key)

    def _not_found(self, request: HttpRequest) -> HttpResponse:
        return render(request, "mailrail_invitations/not_found.html", status=404)
