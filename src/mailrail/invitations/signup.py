"""Sign up with ``django.contrib.auth``: a page creates the invited account and accepts the invitation."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model, login
from django.contrib.auth.forms import BaseUserCreationForm
from django.db import IntegrityError, router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render, resolve_url
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from mailrail.conf import settings
from mailrail.write_transactions import write_transaction

from . import accepting
from .accepting import LinkState
from .views import closed_page, keeps_its_address, next_page


def sign_up_form() -> type[forms.ModelForm]:  # type: ignore[type-arg]  # generic only for the type checker
    """Return Django's form for new users of the project's user model, without the address, which is known."""
    user = get_user_model()
    names = [user.USERNAME_FIELD, *user.REQUIRED_FIELDS]
    fields = [name for name in names if name != user.get_email_field_name()]
    return forms.modelform_factory(user, form=BaseUserCreationForm, fields=fields)


def is_sign_up(path: str) -> bool:
    """Tell whether this is the sign-up page that ``MAILRAIL["INVITATION_SIGNUP"]`` names."""
    page = settings.invitation_signup
    return page is not None and urlsplit(resolve_url(page)).path == path


@method_decorator(
    [sensitive_post_parameters(), never_cache, keeps_its_address, csrf_protect], name="dispatch"
)
class InvitationSignUp(View):
    """Sign up people who come from the page of an invitation only; the link has proved their address."""

    http_method_names = ("get", "head", "post", "options")
    template_name = "mailrail_invitations/sign_up.html"

    def get_form_class(self) -> type[Any]:
        """Return a model form of the user that sets a password when it is saved."""
        return sign_up_form()

    def get(self, request: HttpRequest) -> HttpResponse:
        return self._answer(request)

    def post(self, request: HttpRequest) -> HttpResponse:
        return self._answer(request)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        link_state, invitation = accepting.stashed(request)
        is_wanted = not request.user.is_authenticated and is_sign_up(request.path)
        if link_state is LinkState.DONE or (invitation is not None and not is_wanted):
            return redirect(invitation.accept_path())
        if link_state not in (LinkState.WELCOME, LinkState.LOG_IN):
            return closed_page(request, link_state)
        user = get_user_model()
        instance = user(**{user.get_email_field_name(): invitation.email})
        form = self.get_form_class()(request.POST if request.method == "POST" else None, instance=instance)
        if form.is_valid() and self._made(form, invitation):
            login(request, form.instance, backend=django_settings.AUTHENTICATION_BACKENDS[0])
            return HttpResponseRedirect(next_page(request) or invitation.accept_path())
        return render(request, self.template_name, {"form": form, "invitation": invitation})

    def _made(self, form: Any, invitation: Any) -> bool:
        """Create the account and accept, both or neither, without revealing whether an account has the address."""
        try:
            with write_transaction(router.db_for_write(get_user_model())):
                if invitation.accept(form.save()):
                    return True
                transaction.set_rollback(True, using=router.db_for_write(get_user_model()))
        except IntegrityError:
            pass
        form.add_error(
            None, _("No account could be made of this. If you have one, log in; or try another name.")
        )
        return False
