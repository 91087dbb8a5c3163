"""Beside a running system's own actors: install(broker), and `dramatiq proj.module` runs both.

The user's broker gets one middleware of ours, which acts when its worker starts and stops, and on no message. Our
threads, consumers and connections stand beside those of that worker, in the same process: Dramatiq takes a queue in
with a delay queue, a dead-letter queue and all the middleware there is, none of which a job of ours may meet. See
docs/decisions/0006-beside-a-dramatiq-broker.md.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, Final, cast

import dramatiq
from dramatiq.middleware import MiddlewareError

from queuekit.adapters import ASYNC
from queuekit.adapters.dramatiq.worker import LAST_RESORT, Engine
from queuekit.errors import ConfigError
from queuekit.processes import SAME
from queuekit.task import registered_tasks
from queuekit.worker import leave

if TYPE_CHECKING:
    from queuekit.adapters.dramatiq import DramatiqAdapter
    from queuekit.app import App
    from queuekit.settings import Settings

__all__ = ["Beside", "install"]

log = logging.getLogger("queuekit.dramatiq")

LOOK: Final = 0.02  # seconds between two looks whether Dramatiq's command has heard of this process
HURRIED: Final = 2.0  # seconds for handing back what runs, where the process leaves without a stop in good order


def install(broker: dramatiq.Broker, settings: Settings | None = None, **overrides: Any) -> App:
    """Have the workers of this broker run queuekit's tasks too: `dramatiq proj.module` runs both from then on.

    Call it once in each process that enqueues or works, where the broker is made. Makes no connection. With
    backend="memory", as for tests, the broker is left alone. The App becomes the default one.

    Args:
        settings: read from the environment and files where None.
        overrides: single settings, as for configure(). broker_url is where the broker itself connects to, if not given.

    Raises:
        ConfigError: what was given is no broker; another backend is set; a setting that cannot be; it was installed
            already; there is a default App, with other settings; broker_url is not given, and the broker's connection
            cannot be said as one URL.
    """
    from queuekit.app import App
    from queuekit.settings import load_for_install

    if not isinstance(broker, dramatiq.Broker):
        raise ConfigError(f"install({broker!r}): give a dramatiq.Broker")
    if any(isinstance(one, Beside) for one in broker.middleware):
        raise ConfigError("install(broker) was called for this broker already: call it once, where the broker is made")
    settings = load_for_install("dramatiq", settings, overrides)
    if settings.backend == "dramatiq" and settings.broker_url is None:
        settings = settings.replace("the broker given to install()", broker_url=url_of_broker(broker))
    app = _make_default(App(settings.resolve(), dramatiq=broker), broker, overrides)
    if settings.backend == "dramatiq":
        # The outermost: it refuses to start before another has started a thread, and is the last to hear of the end.
        first = type(broker.middleware[0]) if broker.middleware else None
        broker.add_middleware(Beside(app), before=first)
    return app


def _make_default(app: App, broker: dramatiq.Broker, overrides: dict[str, Any]) -> App:
    """It, or the default App that is there and goes by the same settings: that of `queuekit worker`, which imports the
    module."""
    from queuekit.app import current_app, has_default, use_default

    if not has_default():
        use_default(app)
        return app
    default = current_app()
    names = dict.fromkeys([*overrides, "backend", "namespace"])
    other = [name for name in names if getattr(default.settings, name) != getattr(app.settings, name)]
    if other:
        raise ConfigError(
            f"install() comes too late: there is a default App, with another {', '.join(other)}. Call it once, where "
            "the broker is made, before the first enqueue and in place of configure(); with `queuekit worker`, set the "
            "same by environment or file"
        )
    if app.settings.backend == "dramatiq":
        default.hand_in("dramatiq", broker)
    return default


def url_of_broker(broker: dramatiq.Broker) -> str:
    url = None
    # By name: the module of a broker that is not in use may need a client that is not installed.
    for kind in type(broker).__mro__:
        if kind.__module__ == "dramatiq.brokers.redis":
            from queuekit.adapters.dramatiq.redis import url_of

            url = url_of(cast("Any", broker))
        if kind.__module__ == "dramatiq.brokers.rabbitmq":
            from queuekit.adapters.dramatiq import rabbitmq

            url = rabbitmq.url_of(cast("Any", broker))
    if url is None:
        raise ConfigError(
            f"where {type(broker).__name__} connects to cannot be said as one URL: give install(broker, "
            "broker_url='redis://HOST:PORT/DB'), or amqp://, with a store_url then; for tests backend='memory'"
        )
    return url


def boot_event() -> Event | None:
    """By which a process that `dramatiq` started says that it is up; None in any other, also where that was handed an
    event of the user's. The command hands its own to the process alone, as an argument."""
    process: Any = multiprocessing.current_process()
    target = getattr(process, "_target", None)
    if (getattr(target, "__module__", ""), getattr(target, "__qualname__", "")) != ("dramatiq.cli", "worker_process"):
        return None
    return next((one for one in process._args if isinstance(one, Event)), None)


class Beside(dramatiq.Middleware):
    """In each process in which a worker of the user's broker starts: our threads and our steward, until it stops."""

    queuekit: Final = True  # our own brokers do not take it over with the user's middleware

    def __init__(self, app: App) -> None:
        self.app = app
        self._engine: Engine | None = None
        self._stopping: threading.Thread | None = None
        self._told: float | None = None  # when the first signal came, by time.monotonic()
        self._leaving = False

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Not at process_boot, at which the command has not imported the modules that declare the tasks.

        Raises MiddlewareError, which Dramatiq lets through: a worker that cannot run them does not start.
        """
        if self._engine is not None:
            raise MiddlewareError("queuekit runs beside one Dramatiq worker of a process, and there is one already")
        if not registered_tasks():
            log.warning("no @agent_task is declared in the modules of this worker: it runs native actors alone")
            return
        try:
            ours = self.app.worker()
            adapter = cast("DramatiqAdapter", self.app.adapter)
            adapter.check_pool(ours)
            if ours.pool == ASYNC:
                raise ConfigError(f"pool={ASYNC!r} is run by `queuekit worker`, and not beside Dramatiq's own worker")
            threads = ours.concurrency or worker.worker_threads
            engine = Engine(ours, adapter.make_broker, threads=threads, beside=True)
            engine.start()
        except Exception as error:  # any other kind would be logged, and the worker start without us
            raise MiddlewareError(f"queuekit's worker cannot start: {error}") from error
        self._engine = engine
        # At a second signal the process leaves by SystemExit, and none of the hooks below is called then.
        self._hurry = Finalize(None, self._hand_back, exitpriority=100)
        if threading.current_thread() is threading.main_thread():
            self._take_signals()
        threading.Thread(target=self._open, args=[engine], name="queuekit-open", daemon=True).start()

    @staticmethod
    def _open(engine: Engine) -> None:
        """Once Dramatiq's command has heard that this process is up. It waits for that on an event that both processes
        lock: if a job killed this one meanwhile, the command would wait for 30 s, or hang for ever with no worker."""
        event = boot_event()
        while event is not None and not event.is_set():
            time.sleep(LOOK)
        engine.open()

    def _take_signals(self) -> None:
        """Dramatiq's command asks once a second whether it was told to stop, and at a second signal it leaves with an
        error, or, with its AsyncIO middleware, never: that thread is waited for."""
        before = signal.getsignal(signal.SIGTERM)

        def told(signum: int, frame: Any) -> None:
            now = time.monotonic()
            if self._told is None:
                self._told = now
                self._stop()
                if callable(before):
                    before(signum, frame)
            elif now - self._told > SAME and not self._leaving:
                self._leaving = True
                last = threading.Timer(HURRIED + 1, leave)  # whatever hangs, or is waited for, from here on
                last.daemon = True
                last.start()
                raise SystemExit(0)

        if callable(before):  # in a program of the user's there may be none, and SIGTERM is its own affair
            signal.signal(signal.SIGTERM, told)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Nothing new from here on. Ours end while Dramatiq waits for the native ones."""
        self._stop()

    def _stop(self) -> None:
        """Also in a signal handler, which takes no lock: the thread does."""
        engine = self._engine
        if engine is None or self._stopping is not None:
            return

        def stop() -> None:
            engine.drain()
            engine.end()

        self._stopping = threading.Thread(target=stop, name="queuekit-stop", daemon=True)
        self._stopping.start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._engine is None or self._stopping is None:
            return
        # What hangs is in threads that do not keep the process.
        self._stopping.join(self._engine.worker.settings.grace + LAST_RESORT)
        if self._engine.worker.drained.is_set():
            # The stuck job ends with the process, which Dramatiq's command would let go on to its other ends.
            self._engine.worker.execution.hooks.flush()
            leave(self._engine.worker.exit_code)
        self._engine.worker.stop()
        self._engine = self._stopping = None
        self._hurry.cancel()

    def _hand_back(self) -> None:
        """At the end of the process, where nobody has waited for what runs: it costs no attempt."""
        engine = self._engine
        if engine is None or not engine.broker.busy:
            return
        engine.worker.stopping.set()
        thread = threading.Thread(target=engine.release, name="queuekit-release", daemon=True)
        thread.start()
        thread.join(HURRIED)
