"""The pages of the inbox."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "inbox"

urlpatterns = [
    path("", views.index, name="list"),
    path("lines/", views.lines, name="lines"),  # names of emails begin with a digit
    path("empty/", views.empty, name="empty"),
    path("<slug:name>/", views.detail, name="mail"),
    path("<slug:name>/html/", views.html, name="html"),
    path("<slug:name>/source/", views.source, name="source"),
    path("<slug:name>/attachments/<int:number>/", views.attachment, name="attachment"),
]
