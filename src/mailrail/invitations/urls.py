"""Route the pages: ``path("invites/", include("mailrail.invitations.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views
from .signup import InvitationSignUp

app_name = "mailrail_invitations"

urlpatterns = [
    path("", views.SentInvitations.as_view(), name="list"),
    path("new/", views.InvitationCreate.as_view(), name="create"),
    path("bulk/", views.InvitationBulkCreate.as_view(), name="bulk"),
    path("bulk/<uuid:pk>/", views.InvitationBulkPreview.as_view(), name="preview"),
    path("bulk/<uuid:pk>/progress/", views.InvitationBulkProgress.as_view(), name="bulk-progress"),
    path("progress/", views.InvitationProgress.as_view(), name="progress"),
    path("accept/", views.InvitationContinue.as_view(), name="continue"),
    path("sign-up/", InvitationSignUp.as_view(), name="sign-up"),
    path("accept/<str:key>/", views.InvitationAccept.as_view(), name="accept"),
]
