from __future__ import annotations

from django.urls import path
from documents import views

urlpatterns = [
    path("documents", views.create),
    path("documents/<int:pk>", views.read),
]
