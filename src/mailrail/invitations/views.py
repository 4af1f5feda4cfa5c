"""Serve the pages of senders (list, create, bulk, progress) and of invited people (accept)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import redirect_to_login
from django.core.paginator import Page, Paginator
from django.db import router
from django.db.models import Count, QuerySet
from django.forms import modelform_factory
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.urls import reverse, reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.translation import gettext as _
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.generic import CreateView, FormView, ListView

from mailrail.conf import settings

from . import accepting, bulk
from .accepting import CheckedLink, LinkState
from .errors import InvitationRefused
from .forms import BulkInvitationForm, InvitationForm
from .models import InvitationBatch, every_invitation, get_invitation_model

MAX_NEXT_LENGTH = 1000
"""Characters of the ``next`` URL. Django refuses to redirect to very long ones, which would fail too late."""


class OwnInvitations(LoginRequiredMixin):
    """Restrict a view to the invitations that the logged-in user sent."""

    request: HttpRequest

    def get_queryset(self) -> QuerySet[Any]:
        return every_invitation().filter(sender_id=self.request.user.pk)

    def progress(self) -> dict[str, int]:
        """Return the number of invitations (``total``) and of those mailed (``sent``)."""
        return self.get_queryset().order_by().aggregate(total=Count("pk"), sent=Count("sent"))


class SentInvitations(OwnInvitations, ListView):  # type: ignore[type-arg]  # generic only for the type checker
    """List the newest invitations first, page by page, with the progress of mailing."""

    template_name = "mailrail_invitations/list.html"
    context_object_name = "invitations"
    paginate_by = 50

    def paginate_queryset(self, queryset: Any, page_size: int) -> tuple[Paginator[Any], Page[Any], Any, bool]:
        """Show the nearest page if the requested one does not exist, as rows may have been deleted meanwhile."""
        paginator = self.get_paginator(queryset, page_size)
        page = paginator.get_page(self.request.GET.get(self.page_kwarg))
        return paginator, page, page.object_list, page.has_other_pages()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(progress=self.progress(), **kwargs)


class InvitationProgress(OwnInvitations, View):
    """Return the progress as JSON: ``{"total": 501, "sent": 17}``."""

    @method_decorator(never_cache)
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(self.progress())


class InvitationCreate(LoginRequiredMixin, CreateView):  # type: ignore[type-arg]
    """Invite one person."""

    form_class: type[InvitationForm] = InvitationForm
    template_name = "mailrail_invitations/create.html"
    success_url = reverse_lazy("mailrail_invitations:list")

    def get_form_class(self) -> type[Any]:
        """Return the form, for the model that the project uses."""
        model, form = get_invitation_model(), self.form_class
        return form if form._meta.model is model else modelform_factory(model, form=form)

    def form_valid(self, form: InvitationForm) -> HttpResponse:  # type: ignore[override]
        form.instance.sender = self.request.user
        try:
            response = super().form_valid(form)
        except InvitationRefused as refused:
            form.add_error(None, str(refused))
            return self.form_invalid(form)
        text = _("The invitation for %(email)s is on its way.") % {"email": form.instance.email}
        messages.success(self.request, text, fail_silently=True)  # the messages app is optional
        return response


class InvitationBulkCreate(LoginRequiredMixin, FormView):  # type: ignore[type-arg]
    """Read a list, pasted or in a file, and redirect to its preview."""

    form_class = BulkInvitationForm
    template_name = "mailrail_invitations/bulk.html"

    def form_valid(self, form: BulkInvitationForm) -> HttpResponse:
        assert self.request.user.is_authenticated  # LoginRequiredMixin lets nobody else in
        batch = form.save(self.request.user)
        return redirect("mailrail_invitations:preview", pk=batch.pk)


class OwnBatch(LoginRequiredMixin):
    """Restrict a view to one list of the logged-in user."""

    request: HttpRequest
    kwargs: dict[str, Any]

    def batch(self) -> InvitationBatch:
        """Return the list from the database for writes, because a replica may not have it yet."""
        batches = InvitationBatch.objects.using(router.db_for_write(InvitationBatch))
        return get_object_or_404(batches, pk=self.kwargs["pk"], sender_id=self.request.user.pk)


class InvitationBulkPreview(OwnBatch, View):
    """Show who will be invited, and who will not and why; the form confirms it."""

    template_name = "mailrail_invitations/preview.html"

    @method_decorator(never_cache)
    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        batch = self.batch()
        return self._onward(batch) if batch.confirmed_at else self._page(batch)

    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        batch = self.batch()
        try:
            bulk.confirm(batch, **self.get_fields(batch))
        except InvitationRefused as refused:
            return self._page(batch, str(refused))
        return self._onward(batch)

    def get_fields(self, batch: InvitationBatch) -> dict[str, Any]:
        """Return values for the fields of your own model, the same for the whole list."""
        return {}

    def _onward(self, batch: InvitationBatch) -> HttpResponse:
        return redirect("mailrail_invitations:bulk-progress", pk=batch.pk)

    def _page(self, batch: InvitationBatch, error: str = "") -> HttpResponse:
        context = {
            "batch": batch,
            "error": error,
            "more": batch.problem_count - len(batch.problems),
            "more_understood": batch.understood_count - len(batch.understood),
        }
        return render(self.request, self.template_name, context)


class InvitationBulkProgress(OwnBatch, View):
    """Show the progress of a list, and who could not be sent an email."""

    template_name = "mailrail_invitations/progress.html"

    @method_decorator(never_cache)
    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        batch = self.batch()
        if batch.confirmed_at is None:
            return redirect("mailrail_invitations:preview", pk=pk)
        context = {"batch": batch, "progress": batch.mailrail_progress()}
        return render(request, self.template_name, context)


def keeps_its_address(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Keep browsers from sending the page's URL, which holds the key, to other sites.

    With ``no-referrer``, browsers would post the page's form with ``Origin: null`` (Fetch standard, "append a request
    `Origin` header"), which Django's CSRF protection refuses.
    """

    @wraps(view)
    def wrapped(*args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(*args, **kwargs)
        response["Referrer-Policy"] = "same-origin"
        return response

    return wrapped


def next_page(request: HttpRequest) -> str:
    """Return the ``next`` URL of the request; empty unless it is a page of this site.

    Pass it to ``HttpResponseRedirect``: ``redirect`` would take a text without a slash for the name of a view.
    """
    url = request.POST.get("next") or request.GET.get("next") or ""
    hosts, secure = {request.get_host()}, request.is_secure()
    is_ours = url_has_allowed_host_and_scheme(url, hosts, require_https=secure)
    return url if is_ours and len(url) <= MAX_NEXT_LENGTH else ""


def closed_page(request: HttpRequest, link_state: LinkState) -> HttpResponse:
    """Return a page that says why a link opens nothing, with the HTTP status of that state."""
    if link_state is LinkState.FORGED:
        return render(request, "mailrail_invitations/not_found.html", status=link_state.status)
    return render(
        request,
        "mailrail_invitations/closed.html",
        {"why": link_state.name.lower()},
        status=link_state.status,
    )


@method_decorator([never_cache, keeps_its_address, csrf_protect], name="dispatch")
class InvitationAccept(View):
    """Serve the page of the link in the email. Mail scanners open links, so only its form changes anything."""

    http_method_names = ("get", "head", "post", "options")
    template_name = "mailrail_invitations/accept.html"

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        return self.page(request, accepting.check_link(request, key))

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        checked = accepting.check_link(request, key)
        match checked.link_state, request.POST.get("go", ""):
            case ((LinkState.LOG_IN | LinkState.OTHER_ACCOUNT), ("log-in" | "sign-up") as where):
                return self.leave(request, key, where)
            case LinkState.LOG_IN, _:
                return self.leave(request, key, "log-in")
            case LinkState.WELCOME, "sign-up" if not request.user.is_authenticated:
                return self.leave(request, key, "sign-up")
            case LinkState.WELCOME, _:
                if accepting.accept(request, checked.invitation):
                    return HttpResponseRedirect(self.get_success_url(checked.invitation))
                checked = accepting.check_link(request, key)  # somebody else accepted it first
        if checked.link_state is LinkState.DONE:
            return HttpResponseRedirect(self.get_success_url(checked.invitation))
        return self.page(request, checked)

    def page(self, request: HttpRequest, checked: CheckedLink) -> HttpResponse:
        """Show the invitation, or the reason why it cannot be opened."""
        link_state, invitation = checked
        if link_state.status in (404, 410):
            return closed_page(request, link_state)
        context = {
            "invitation": invitation,
            "link_state": link_state.name.lower(),
            "sign_up": settings.invitation_signup is not None,
            "next": self.next(),
        }
        return render(request, self.template_name, context, status=link_state.status)

    def leave(self, request: HttpRequest, key: str, where: str) -> HttpResponse:
        """Redirect to log in or sign up. The session keeps the key, so the URLs of those pages do not hold it."""
        if request.user.is_authenticated:
            logout(request)
        accepting.stash(request, key)
        back = {"next": self.next()} if self.next() else {}
        continue_url = f"{reverse('mailrail_invitations:continue')}{'?' if back else ''}{urlencode(back)}"
        if where == "sign-up" and settings.invitation_signup is not None:
            return redirect_to_login(continue_url, resolve_url(settings.invitation_signup))
        return redirect_to_login(continue_url)

    def next(self) -> str:
        """Return the ``next`` URL, as ``next_page`` does."""
        return next_page(self.request)

    def get_success_url(self, invitation: Any) -> str:
        """Return the URL after acceptance: ``next``, else this page, which confirms it."""
        return self.next() or str(invitation.accept_path())


@method_decorator([never_cache, keeps_its_address], name="dispatch")
class InvitationContinue(View):
    """Redirect from logging in or signing up to the page of the remembered link.

    People who accepted by signing up go on to the ``next`` URL.
    """

    def get(self, request: HttpRequest) -> HttpResponse:
        checked = accepting.stashed(request)
        if checked.invitation is None:
            return closed_page(request, checked.link_state)
        if checked.link_state is LinkState.DONE and (url := next_page(request)):
            return HttpResponseRedirect(url)
        url = str(checked.invitation.accept_path())
        return redirect(f"{url}?{request.GET.urlencode()}" if request.GET else url)
