"""The pages: ``path("invites/", include("mailrail.invitations.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "mailrail_invitations"

urlpatterns = [
    path("", views.InvitationList.as_view(), name="list"),
    path("new/", views.InvitationCreate.as_view(), name="create"),
    path("bulk/", views.InvitationBulkCreate.as_view(), name="bulk"),
    path("progress/", views.InvitationProgress.as_view(), name="progress"),
    path("accept/<str:key>/", views.InvitationAccept.as_view(), name="accept"),
]
