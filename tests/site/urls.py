import os

from django.http import HttpRequest, JsonResponse
from django.urls import path

from mailrail import Channel


def send(request: HttpRequest, channel: str) -> JsonResponse:
    """Send on a channel what the query says; tell the message's id, and who serves."""
    id = Channel(channel).send(request.GET.dict())
    return JsonResponse({"id": str(id), "pid": os.getpid()})


def ping(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pid": os.getpid()})


urlpatterns = [path("", ping), path("send/<str:channel>", send)]
