"""URLs of the live page alone."""

from django.urls import include, path

urlpatterns = [path("", include("mailrail.dashboard.urls"))]
