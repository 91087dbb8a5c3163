"""install(app): queuekit's tasks inside a Celery app that is there.

Nothing of the app's configuration is changed. What its workers get are two steps (see queuekit.adapters.celery.beside),
and what queuekit's tasks need is set on these tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from celery import Celery

from queuekit.app import App, current_app, has_default, use_default
from queuekit.errors import ConfigError
from queuekit.settings import load_for_install

if TYPE_CHECKING:
    from queuekit.settings import Settings

__all__ = ["COMPANION", "FEED", "install", "installed"]

COMPANION: Final = "queuekit.adapters.celery.beside:Companion"  # by name: a program that enqueues loads no worker
FEED: Final = "queuekit.adapters.celery.beside:Feed"

installed: WeakKeyDictionary[Any, App] = WeakKeyDictionary()  # by Celery app


def install(app: Any, settings: Settings | None = None, **overrides: Any) -> App:
    """Have the workers of this app run queuekit's tasks too: `celery -A proj worker` runs both from then on.

    Call it once in each process that enqueues or works, where the Celery app is made. Makes no connection, and does not
    read the app's configuration yet. With backend="memory", as for tests, the app is left alone. The App becomes the
    default one.

    Args:
        settings: read from the environment and files where None.
        overrides: single settings, as for configure(). broker_url is the Celery app's, if not given; a broker_url on
            RabbitMQ needs a store_url beside it.

    Raises:
        ConfigError: what was given is no Celery app; another backend is set; a setting that cannot be; it was installed
            already; the default App is in use with other settings.
    """
    if not isinstance(app, Celery):
        raise ConfigError(f"install({app!r}): give a celery.Celery")
    if app in installed:
        raise ConfigError("install(app) was called for this Celery app already: call it once, where the app is made")
    given = load_for_install("celery", settings, overrides)
    ours = App(given, celery=app if given.backend == "celery" else None)
    if not has_default():
        use_default(ours)
    else:  # `queuekit worker` imports the module
        ours = _take_default(app, given, overrides)
    if given.backend == "celery":
        installed[app] = ours
        steps: Any = app.steps
        steps["worker"].add(COMPANION)
        steps["consumer"].add(FEED)
    return ours


def _take_default(app: Any, given: Settings, overrides: dict[str, Any]) -> App:
    """The default App, if it goes by the same settings."""
    default = current_app()
    names = [*overrides, "backend", "namespace"]
    other = [name for name in dict.fromkeys(names) if getattr(default.settings, name) != getattr(given, name)]
    if other:
        raise ConfigError(
            f"install() comes too late: there is a default App, with another {', '.join(other)}. Call it once, where "
            "the Celery app is made, before the first enqueue and in place of configure(); with `queuekit worker`, set "
            "the same by environment or file"
        )
    if given.backend == "celery":
        default.hand_in("celery", app)
    return default
