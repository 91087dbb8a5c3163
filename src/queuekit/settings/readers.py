"""Readers: how one value is read, whatever place it comes from. Each gives the value, or raises Refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from queuekit.settings import urls
from queuekit.settings.backends import BACKENDS, known_backends

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuekit.retry import RetryPolicy

    class Duration:
        """For type checkers: seconds or a timedelta go in, seconds come out."""

        def __get__(self, instance: object, owner: type | None = None) -> float: ...
        def __set__(self, instance: object, value: float | timedelta) -> None: ...

    class Names:
        """For type checkers: any sequence of names goes in (or "a,b"), a tuple comes out."""

        def __get__(self, instance: object, owner: type | None = None) -> tuple[str, ...]: ...
        def __set__(self, instance: object, value: str | list[str] | tuple[str, ...]) -> None: ...

    class Policies:
        """For type checkers: policies or their dictionaries go in, dictionaries come out."""

        def __get__(self, instance: object, owner: type | None = None) -> Mapping[str, Mapping[str, Any]]: ...
        def __set__(self, instance: object, value: Mapping[str, Mapping[str, Any] | RetryPolicy]) -> None: ...


class Refused(Exception):
    """A value cannot be; the text is the remedy. `gather` adds the setting's name, the value and where it stands."""


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Refused("give a text that is not empty")
    return value.strip()


def namespace(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise Refused("give letters, digits, '_' and '-' only")
    return value


def broker_url(value: Any) -> str:
    return _url(value, urls.REDIS + urls.AMQP)


def store_url(value: Any) -> str:
    return _url(value, urls.REDIS + urls.CLUSTER)


def _url(value: Any, schemes: tuple[str, ...]) -> str:
    url = value.strip() if isinstance(value, str) else ""
    remedy = urls.remedy(url, schemes)
    if remedy is not None:
        raise Refused(remedy)
    return url


def seconds(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise Refused("give 0 seconds or more")
    return number


def some_seconds(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise Refused("give more than 0 seconds")
    return number


def _number(value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    number = math.nan
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise Refused("give seconds as a number, or a timedelta")
    return number


def count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refused("give a whole number from 1")
    return value


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Refused("give true or false")


def seed(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Refused("give a text or a whole number")
    return value


def store_lost(value: Any) -> str:
    if value not in ("quarantine", "adopt"):
        raise Refused("give 'quarantine' or 'adopt'")
    return str(value)


def amqp_queues(value: Any) -> str:
    if value not in ("classic", "quorum"):
        raise Refused("give 'classic' or 'quorum'")
    return str(value)


def names(value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
        raise Refused("give names, as a list or as 'a,b'")
    found = tuple(dict.fromkeys(name.strip() for name in given))
    if any(not name or re.search(r"[\s,]", name) for name in found):
        raise Refused("give names without spaces, none of them empty")
    return found


def hooks(value: Any) -> tuple[str, ...]:
    found = names(value)
    for name in found:
        module, colon, path = name.partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
            raise Refused("give package.module:name")
    return found


def codec(value: Any) -> Any:
    return _object(value, "encode", "decode")


def blobs(value: Any) -> Any:
    return _object(value, "put", "get")


def _object(value: Any, *methods: str) -> Any:
    if isinstance(value, str):
        (name,) = hooks([value])
        return name
    if not all(callable(getattr(value, method, None)) for method in methods):
        raise Refused(f"give package.module:name, or an object with the methods {' and '.join(methods)}")
    return value


def signing_key(value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(key, str) for key in given):
        raise Refused("give a text, or several as a list or as 'NEW,OLD'")
    found = tuple(dict.fromkeys(key.strip() for key in given))
    # Of random letters and digits: a key with fewer different ones was not made by a random generator.
    if any(len(key.encode()) < 16 or len(set(key)) < 8 or re.search(r"[\s,]", key) for key in found):
        raise Refused(
            "give keys of 16 characters or more, without spaces and commas, that nobody can guess: "
            'python -c "import secrets; print(secrets.token_hex(32))" makes one'
        )
    return found


def unsigned(value: Any) -> str:
    if value not in ("quarantine", "accept"):
        raise Refused("give 'quarantine' or 'accept'")
    return str(value)


def log_format(value: Any) -> str:
    if value not in ("text", "json"):
        raise Refused("give 'text' or 'json'")
    return str(value)


def port(value: Any) -> int:
    number = count(value)
    if number > 65535:
        raise Refused("give a port from 1 to 65535")
    return number


def policies(value: Any) -> dict[str, dict[str, Any]]:
    import json

    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Refused('give a JSON object of policies by name: {"slow": {"max_attempts": 5}}') from None
    if not isinstance(value, Mapping):
        raise Refused("give a table of policies by name: [retry.NAME], or [tool.queuekit.retry.NAME] in pyproject.toml")
    tables: dict[str, dict[str, Any]] = {}
    for name, policy in value.items():
        table = policy.to_dict() if hasattr(policy, "to_dict") else policy
        if not isinstance(name, str) or not name:
            raise Refused("the name of a policy is a text")
        if not isinstance(table, Mapping):
            raise Refused(f"the policy {name!r} is not a table; write one as RetryPolicy.to_dict() gives it")
        try:
            # A copy of its own, and the proof that the steward can be sent it.
            tables[name] = json.loads(json.dumps(dict(table), allow_nan=False))
        except (TypeError, ValueError):
            raise Refused(
                f"the policy {name!r} holds a value that JSON cannot; write it as RetryPolicy.to_dict() does"
            ) from None
    return tables


def caps(value: Any) -> dict[str, int]:
    import json

    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise Refused('give a table of whole numbers by name, or as a JSON object: {"NAME": 5}')
    found = {}
    for name, cap in value.items():
        try:
            found[name] = count(cap)
        except Refused as error:
            raise Refused(f"{name!r}: {error}") from None
    return found


def schedules(value: Any) -> dict[str, dict[str, Any]]:
    """Tables by name, which queuekit.schedules reads: moments of TOML as text."""
    import json

    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Refused(
                'give a JSON object by name: {"nightly": {"task": "jobs.clean", "cron": "0 3 * * *"}}'
            ) from None
    if not isinstance(value, Mapping) or not all(isinstance(one, Mapping) for one in value.values()):
        raise Refused("give a table by name: [schedules.NAME], or [tool.queuekit.schedules.NAME] in pyproject.toml")
    try:
        tables: dict[str, dict[str, Any]] = json.loads(json.dumps(dict(value), default=lambda one: one.isoformat()))
    except (TypeError, ValueError, AttributeError):
        raise Refused("a value in it is none that JSON can hold") from None
    return tables


def backend(value: Any) -> str:
    name = text(value)
    if name in BACKENDS:  # without a look at all installed packages
        return name
    known = known_backends()
    if name not in known:
        raise Refused(f"no such backend{suggest(name, known)} Known here: {', '.join(sorted(known))}")
    return name


def nearest(name: str, known: Iterable[str]) -> str | None:
    import difflib

    words = {word.lower().replace("-", "_"): word for word in known}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return words[near[0]] if near else None


def suggest(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f", did you mean {near!r}?" if near else "."
