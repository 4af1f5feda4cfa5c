from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("invites/", include("mailrail.invitations.urls")),
    path("accounts/", include("django.contrib.auth.urls")),
]
