from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("mailrail.health.urls")),
    path("mailrail/", include("mailrail.dashboard.urls")),
    path("invites/", include("mailrail.invitations.urls")),
    path("accounts/", include("django.contrib.auth.urls")),
]
if apps.is_installed("allauth"):
    urlpatterns.append(path("allauth/", include("allauth.urls")))
