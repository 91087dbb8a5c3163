"""`queuekit doctor`: what undoes a promise, why that matters, and what mends it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from queuekit.adapters.findings import LEVELS, Severity
from queuekit.cli.options import FAILED
from queuekit.cli.output import clean, console, error, json_line
from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import ModuleType

    from queuekit.adapters import Adapter
    from queuekit.adapters.findings import Finding
    from queuekit.app import App
    from queuekit.doctor import Patient
    from queuekit.settings import Settings
    from queuekit.store import Store

__all__ = ["run", "to_json"]

VERSION: Final = 1  # of the JSON
COLOURS: Final = {
    Severity.ok: "green", Severity.hint: "cyan", Severity.unchecked: "magenta", Severity.warning: "yellow",
    Severity.error: "bold red",
}  # fmt: skip


def run(modules: Sequence[str], *, fail_on: str, quiet: bool, as_json: bool, options: Mapping[str, Any]) -> int:
    """The exit code. Raises ConfigError."""
    from queuekit.doctor import examine

    loaded, broken = _load(modules)
    with ExitStack() as stack:
        patient = _patient(options, stack)
        patient.modules, patient.broken = loaded, broken
        found = examine(patient)
    failed = any(one.rank >= LEVELS.index(Severity(fail_on)) for one in found)
    shown = [one for one in found if not quiet or one.severity is not Severity.ok]
    if as_json:
        json_line(to_json(shown, healthy=not failed))
    else:
        _show(shown, found)
    return FAILED if failed else 0


def to_json(findings: Iterable[Finding], *, healthy: bool) -> dict[str, Any]:
    """As docs/how-to/doctor.md describes it."""
    return {
        "version": VERSION,
        "healthy": healthy,
        "findings": [
            {
                "check": one.check,
                "severity": str(one.severity),
                "found": one.found,
                "why": one.why or None,
                "remedy": one.remedy or None,
            }
            for one in findings
        ],
    }


# ---- who is looked at ----------------------------------------------------------------------------------------------


def _load(names: Sequence[str]) -> tuple[list[ModuleType], dict[str, Exception]]:
    """The modules, and those that raise when they are imported. Raises ConfigError where there is no such module."""
    from queuekit.cli.worker import load_modules

    loaded, broken = [], {}
    for name in names:
        try:
            loaded += load_modules([name])
        except ConfigError:
            raise
        except Exception as problem:  # the user's module
            broken[name] = problem
    return loaded, broken


def _patient(options: Mapping[str, Any], stack: ExitStack) -> Patient:
    from queuekit.cli.connect import connect
    from queuekit.doctor import Patient
    from queuekit.store.redis import RedisStore
    from queuekit.task import registered_tasks

    app = _app(options)
    if app is None:
        here = connect(options)
        settings, store = here.settings, here.store
    else:
        settings = app.settings
        store = RedisStore.of(settings)
    stack.callback(store.close)
    patient = Patient(settings, store, tasks=registered_tasks())
    patient.adapters = _adapters(app, settings, store)
    for adapter in patient.adapters.values():
        stack.callback(adapter.close)
    return patient


def _app(options: Mapping[str, Any]) -> App | None:
    """The one that the user's modules have made, by configure() or by an adapter's install(); with what the command
    line says otherwise."""
    from queuekit.app import current_app, has_default

    if not has_default():
        return None
    app = current_app()
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        app = app.replaced("command line", **given)
    if app.settings.backend == "memory":
        raise ConfigError(
            f"backend='memory' ({app.settings.source('backend')}) keeps its jobs in the process that enqueues them, so "
            "that there is nothing to look at from here. Give --backend for another"
        )
    return app


def _adapters(app: App | None, settings: Settings, store: Store) -> dict[str, Adapter]:
    """That of the backend which is set; of each that jobs were recorded for where none is. Needs a broker."""
    from queuekit.adapters import load_adapter
    from queuekit.store import StoreAway

    if app is not None:
        return {app.adapter.name: app.adapter}
    if settings.broker_url is None:
        return {}
    names = [settings.backend] if settings.backend is not None else []
    if not names:
        try:
            names = list(dict.fromkeys(one.route.split(":")[0] for one in store.counts()))
        except StoreAway:  # which a check says
            return {}
    found = {}
    for name in names:
        try:
            complete = settings.replace("queuekit doctor", backend=name).resolve()
            found[name] = load_adapter(name)(complete)
        except ConfigError as problem:
            if settings.backend is not None:
                raise
            error(f"{name} is not looked at: {problem}")
    return found


# ---- for people ----------------------------------------------------------------------------------------------------


def _show(shown: Sequence[Finding], every: Sequence[Finding]) -> None:
    """The gravest first. Uncut, on a terminal too: a remedy is there to be copied."""
    from rich.padding import Padding
    from rich.text import Text

    screen = console()
    if not screen.is_terminal:
        screen.width = 100_000  # lines are wrapped on a terminal only
    for one in sorted(shown, key=lambda one: -one.rank):
        head = Text(f"{one.severity:<9} ", style=COLOURS[one.severity]).append(f"{one.check}  ", style="bold default")
        screen.print(head.append(clean(one.found), style="not bold default"), soft_wrap=not screen.is_terminal)
        for name, text in (("why", one.why), ("remedy", one.remedy)):
            if text:
                line = Text(f"{name:<7} ", style="dim").append(clean(text), style="not dim")
                screen.print(Padding(line, (0, 0, 0, 10)) if screen.is_terminal else Text(" " * 10).append_text(line))
    screen.print(_summary(every))


def _summary(every: Sequence[Finding]) -> str:
    counts = {level: sum(one.severity is level for one in every) for level in reversed(LEVELS)}
    words = {Severity.error: "error", Severity.warning: "warning", Severity.hint: "hint"}
    said = [f"{n} {word}{'' if n == 1 else 's'}" for level, word in words.items() if (n := counts[level])]
    if counts[Severity.unchecked]:
        said.append(f"{counts[Severity.unchecked]} unchecked")
    return ", ".join([*said, f"{counts[Severity.ok]} well"])
