"""The gate before Celery's tasks: of what lies in queuekit's queues only doorbells get as far as a task, and what else
lies there goes to quarantine."""

from __future__ import annotations

import bz2
import json
import logging
import lzma
import zlib
from typing import TYPE_CHECKING, Any, Final

from queuekit.adapters.celery.broker import BACKSTOP
from queuekit.adapters.celery.tasks import ADOPTED, UNKNOWN, DoorbellTask
from queuekit.message import HEADER, Doorbell, InvalidMessage, as_text, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["COMPRESSION", "Gate", "describe"]

log = logging.getLogger("queuekit.celery")

COMPRESSION: Final = "compression"  # the header; on a message: the name in it, which kombu has not seen
HEADERS: Final = 65_536  # characters of a message's headers
DECOMPRESS: Final[Mapping[str, Callable[[], Any]]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), lzma.LZMADecompressor),
}
SHOWN: Final = ("lang", "id", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin")  # headers for monitors
FOREVER: Final = 1e9  # seconds: the time limit of a task that has none, in an app that gives one to all tasks


class Gate:
    """Admits messages to an app's tasks.

    Args:
        tasks: the app's, by name.
        adopt: whether native messages, which nobody published through queuekit, pass too.
        limits: the app-wide hard and soft time limits, in seconds, that are not to strike our tasks.
        most: the bytes that a body may have, also once it is decompressed.
    """

    def __init__(
        self,
        tasks: Mapping[str, Any],
        *,
        adopt: bool = False,
        limits: tuple[float | None, float | None] = (None, None),
        most: int = 1 << 24,
    ) -> None:
        self.tasks = tasks
        self.adopt = adopt
        self.limits = limits
        self.most = most

    def admit(self, message: Any, queue: str = "") -> None:
        """Let the message pass, with the headers that it may have. Celery is told what the doorbell says: a forged
        header chooses no other task, no callback, time or limit.

        Raises:
            InvalidMessage: with the reason. Other errors mean the same: a value that nobody thought of.
        """
        headers = message.headers
        if not isinstance(headers, dict) or (HEADER not in headers and not self.adopt):
            raise InvalidMessage(
                f"it has no header {HEADER!r}: nobody published it through queuekit, and the setting adopt is off"
            )
        bell = Doorbell.from_header(headers[HEADER]) if HEADER in headers else None
        self._check_size(message)
        try:
            body = message.decode()
        except Exception as error:  # not JSON, or not accepted; a pickle is not looked at
            raise InvalidMessage(f"its body cannot be read as JSON: {error}") from None
        match body:
            case [list(), dict(), dict() as embed] if not any(embed.values()):
                pass
            case _:
                raise InvalidMessage("its body is not [args, kwargs, {}]")
        if bell is None:
            name, timeout, said = self._native(headers, message, queue)
        elif headers.get("task") != bell.task or not isinstance(headers.get("id"), str):
            raise InvalidMessage("its headers name another task than its doorbell, or no id")
        else:
            bell.check_native(headers["id"])
            name, timeout, said = bell.task, bell.timeout, headers[HEADER]
        ours = isinstance(self.tasks.get(name), DoorbellTask)
        message.headers = {
            **{name: headers[name] for name in SHOWN if isinstance(headers.get(name), str)},
            "task": name if ours else UNKNOWN,
            "shadow": None if ours else name,
            "timelimit": self._limits(timeout),
            HEADER: said,
        }

    def _check_size(self, message: Any) -> None:
        """kombu would have decompressed the body before anybody could ask how large it becomes."""
        name = getattr(message, COMPRESSION, None)
        if name is not None:
            if not self.adopt or name not in DECOMPRESS:
                raise InvalidMessage(f"its body is compressed ({str(name)[:80]!r}), which none of ours is")
            body = message.body.encode() if isinstance(message.body, str) else message.body
            try:
                message.body = DECOMPRESS[name]().decompress(body, self.most + 1)
            except Exception as error:  # each of the three has its own
                raise InvalidMessage(f"its body cannot be decompressed: {error}") from None
        size = len(message.body) if hasattr(message.body, "__len__") else 0
        if size > self.most:
            raise InvalidMessage(f"its body takes {size} bytes or more, and none of ours more than {self.most}")
        if len(json.dumps(message.headers, default=repr)) > HEADERS:
            raise InvalidMessage(f"its headers take more than {HEADERS} characters")

    def _native(self, headers: dict[str, Any], message: Any, queue: str) -> tuple[str, float | None, dict[str, Any]]:
        """Of a message that a native producer sent. Its record is made by the process that runs it."""
        name = headers.get("task")
        if not isinstance(name, str) or not isinstance(headers.get("id"), str):
            raise InvalidMessage("its headers name no task, or no id")
        asked = [option for option in ("eta", "expires", "chord", "group") if headers.get(option)]
        if asked:
            raise InvalidMessage(
                f"a native message on queuekit's queues cannot ask for {', '.join(asked)}: enqueue it with the task's "
                "own options(delay=, at=, expires=)"
            )
        ours = self.tasks.get(name)
        timeout = ours.timeout if isinstance(ours, DoorbellTask) else None
        priority = (message.properties or {}).get("priority")
        return name, timeout, {ADOPTED: {"queue": queue, "priority": priority if type(priority) is int else None}}

    def _limits(self, timeout: float | None) -> list[float | None]:
        """Hard and soft, in seconds. A limit of the app's own would strike where a task names none."""
        app_hard, app_soft = self.limits
        hard = FOREVER if timeout is None and app_hard else None if timeout is None else timeout + BACKSTOP
        # Celery arms the hard limit when the soft one strikes: at the same moment, it kills.
        return [hard, (FOREVER if hard is None else hard) if app_soft else None]


def describe(message: Any) -> str:
    """The message as the quarantine keeps it."""
    body = message.body
    text = shortened(body if isinstance(body, bytes) else str(body))
    told = as_text({"content_type": message.content_type, "headers": message.headers})
    return shortened(f"{told} {text}")
