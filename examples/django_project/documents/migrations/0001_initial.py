# ruff: noqa: RUF012  # as Django writes them
import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Document",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField(validators=[django.core.validators.MinLengthValidator(10)])),
                ("summary", models.TextField(blank=True, default="")),
            ],
        ),
    ]
