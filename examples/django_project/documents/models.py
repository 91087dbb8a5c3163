from __future__ import annotations

from django.core.validators import MinLengthValidator
from django.db import models


class Document(models.Model):
    text = models.TextField(validators=[MinLengthValidator(10)])
    summary = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"document {self.pk}"
