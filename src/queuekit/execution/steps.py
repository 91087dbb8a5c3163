"""The steps of one attempt: what an earlier attempt has finished is read from the record, and not done again."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from queuekit.context import running
from queuekit.errors import PayloadError, SoftTimeout, StaleAttempt, StepChanged, StepError, StepUnknown
from queuekit.execution.outside import MARK, Outside
from queuekit.loops import on_process_loop
from queuekit.message import InvalidMessage
from queuekit.payload import Codec
from queuekit.retry import Category, classify
from queuekit.store import StepsFull, StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from types import MethodType

    from queuekit.execution.outcomes import Held
    from queuekit.execution.outside import Waiting
    from queuekit.settings import Settings
    from queuekit.store import Kept, Store

__all__ = ["Steps"]

log = logging.getLogger("queuekit")

T = TypeVar("T")

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
LONGEST_KEY: Final = 200
PAUSE: Final = 0.5  # seconds between two tries while the store is away
ELSEWHERE: Final = "keep the data in a file, an object store or a database and return its key"

# An answer that says that nothing was done. After any other failure (no answer, a 500, a bug) nobody knows.
REFUSED: Final = frozenset(
    {
        Category.rate_limit, Category.quota, Category.overloaded, Category.auth, Category.bad_request,
        Category.context_length, Category.content_filter, Category.not_found, Category.conflict,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Which step a call is: `field` names it in the record, `number` counts the calls that have no key, from 1."""

    field: str
    number: int | None
    careful: bool  # on_unknown="fail": its beginning is noted


class Steps:
    """Of one attempt, from any of its threads and tasks.

    Args:
        held: the claimed attempt.
    """

    def __init__(self, store: Store, held: Held, settings: Settings) -> None:
        self._store = store
        # The attempt itself is not kept: its context leads back here.
        self._message, self._token, self._attempt = held.message, held.token, held.number
        self._settings = settings
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._before: Mapping[str, Kept] | None = None  # what earlier attempts have left
        self._by_number: dict[int, str] = {}
        self._calls = 0
        self._of_name: dict[str, int] = {}
        self._called: set[str] = set()
        self._paid: set[asyncio.Future[None]] = set()  # of async steps that run, or whose result is being kept
        self._failing = self._over = False

    @property
    def _outside(self) -> Outside:
        return Outside(self._settings, self._message, lambda: self._over)

    def close(self) -> None:
        """The attempt has ended here: what still waits for the store gives up, and nothing more begins."""
        self._over = True

    async def hold(self, work: Awaitable[T]) -> T:
        """Await the code of the task. Where it fails, what it has left behind of its steps may end and be kept, since
        it is being paid for: asyncio.gather() raises the first error, and lets the others run. No other step begins."""
        try:
            return await work
        except Exception:
            self._failing = True
            with suppress(SoftTimeout):
                while self._paid:
                    await asyncio.wait(set(self._paid))
            raise

    # ---- a call -----------------------------------------------------------------------------------------------------

    def place(self, name: str, key: str | int | None, on_unknown: str) -> Place:
        """In the order of the calls, before anything is awaited.

        Raises:
            StepError: a name or a key that cannot be, a key that was called before, a step within a step.
        """
        inside = running.get().step_name
        if inside:
            raise StepError(f"step {name!r} is called within step {inside!r}: call them one after the other")
        if not isinstance(name, str) or not NAME.match(name):
            raise StepError(f"a step's name is 1 to 100 letters, digits, '_', '.' and '-', not {str(name)[:120]!r}")
        if key is not None and (not isinstance(key, (str, int)) or not 0 < len(str(key)) <= LONGEST_KEY):
            raise StepError(f"step {name!r}: a key is an int, or a text of 1 to {LONGEST_KEY} characters, not {key!r}")
        careful = on_unknown == "fail"
        with self._lock:
            if key is not None:
                field = f"{name}:{key}"
                if field in self._called:
                    raise StepError(f"step {name!r} was called with the key {key!r} before: a key names one step")
                self._called.add(field)
                return Place(field, None, careful)
            self._calls += 1
            before = self._of_name.get(name, 0)
            self._of_name[name] = before + 1
            field = f"{name}#{before}"
            return Place(field, self._calls, careful)

    def run(self, place: Place, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step's result, of this call or of an earlier attempt's.

        Raises:
            StepError: see the errors of that name; PayloadError: the result does not fit, or is too large;
            BlobAway: the blob hook fails; StaleAttempt: somebody else has ended the attempt. And whatever `fn` raises.
        """
        if on_process_loop():
            raise StepError(f"step {place.field!r} would block the loop of all async tasks: await astep() in its place")
        if inspect.iscoroutinefunction(fn):
            raise StepError(f"step {place.field!r} is given an async function: await astep() in its place")
        codec = self._codec(fn)
        kept = self._find(place)
        if kept is not None:
            return _in_thread(self._read(place, codec, kept))
        if self._over:
            raise self._stale()
        self._begin(place)
        try:
            with self._inside(place):
                value = fn(*args, **kwargs)
        except Exception as error:
            self._forget(place, error)
            raise
        return _in_thread(self._keep(place, codec, value))

    async def arun(
        self, place: Place, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """run(), for what is awaited. The store and the blob hook are asked in a thread."""
        codec = self._codec(fn)
        kept = await asyncio.to_thread(self._find, place)
        if kept is not None:
            return await _on_loop(self._read(place, codec, kept))
        if self._over:
            raise self._stale()
        if self._failing:
            raise asyncio.CancelledError("another step has failed, and the task with it")
        with self._paying():
            if place.careful:
                await asyncio.to_thread(self._begin, place)
            try:
                with self._inside(place):
                    work = fn(*args, **kwargs)
                    if not inspect.isawaitable(work):
                        raise StepError(f"astep {place.field!r} is given a function that is not async: {fn!r}")
                    value = await work
            except Exception as error:
                if place.careful:
                    await asyncio.to_thread(self._forget, place, error)
                raise
            return await _on_loop(self._keep(place, codec, value))

    @contextmanager
    def _paying(self) -> Iterator[None]:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paid.add(over)
        try:
            yield
        finally:
            self._paid.discard(over)
            if not over.done():
                over.set_result(None)

    @contextmanager
    def _inside(self, place: Place) -> Iterator[None]:
        before = running.set(replace(running.get(), step_name=place.field))
        try:
            yield
        finally:
            running.reset(before)

    # ---- the record -------------------------------------------------------------------------------------------------

    def _find(self, place: Place) -> Kept | None:
        """What an earlier attempt has kept of this step. Raises StepChanged and StepUnknown."""
        before = self._load()
        kept = before.get(place.field)
        if place.number is not None:
            there = self._by_number.get(place.number)
            if there is not None and there != place.field:
                was = f"{there!r} in attempt {before[there].attempt}"
                raise self._changed(f"step {place.number}", was, f"it is {place.field!r}")
            if kept is not None and kept.number != place.number:
                was = f"step {kept.number} in attempt {kept.attempt}"
                raise self._changed(f"step {place.field!r}", was, f"it is step {place.number}")
        if kept is None or kept.text is not None:
            return kept
        if place.careful:
            raise StepUnknown(
                f"step {place.field!r} of job {self._message.id} began in attempt {kept.attempt}, and nobody "
                'knows whether it took effect (on_unknown="fail")'
            )
        return None

    def _changed(self, what: str, was: str, now: str) -> StepChanged:
        return StepChanged(
            f"{what} of job {self._message.id} was {was}, and now {now}: the code has changed, or it does not "
            "call its steps in the same order each time. Give such steps a key, or run the job anew"
        )

    def _load(self) -> Mapping[str, Kept]:
        with self._loading:
            if self._before is None:
                found = self._ask(lambda: self._store.steps(self._message.id, self._token))
                if found is None:
                    raise self._stale()
                self._by_number = {one.number: name for name, one in found.items() if one.number is not None}
                self._before = found
            return self._before

    def _begin(self, place: Place) -> None:
        if place.careful and not self._ask(
            lambda: self._store.begin_step(self._message.id, self._token, place.field, place.number)
        ):
            raise self._stale()

    def _forget(self, place: Place, error: Exception) -> None:
        """An answer that says that nothing was done takes the note of the beginning back."""
        if place.careful and classify(error).category in REFUSED:
            self._ask(lambda: self._store.forget_step(self._message.id, self._token, place.field))

    def _keep(self, place: Place, codec: Codec, value: Any) -> Waiting[Any]:
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise StepError(f"step {place.field!r} gave something to await: await astep() in its place")
        message, limit = self._message, self._settings.steps_limit
        text = codec.encode_result(value)
        outside = self._outside.takes(text)
        if self._settings.payload_codec is not None:
            text = message.encode_result(self._settings.payload_codec, text, "step")
        if outside:
            text = yield from self._outside.put(place.field, text)
        if self._settings.signer is not None:
            text = self._settings.signer.sign_step(message.id, place.field, text)
        kept = self._ask(lambda: self._store.keep_step(message.id, self._token, place.field, place.number, text, limit))
        if kept is None:
            raise self._stale()
        if isinstance(kept, StepsFull):
            raise PayloadError(
                f"step {place.field!r}: with it the steps of job {message.id} take {kept.size} bytes, over the "
                f"limit of {limit}; set blobs (or a lower blob_over), {ELSEWHERE}, or raise the setting steps_limit"
            )
        return value if kept.text == text else (yield from self._read(place, codec, kept))

    def _read(self, place: Place, codec: Codec, kept: Kept) -> Waiting[Any]:
        assert kept.text is not None
        text, message = kept.text, self._message
        if self._settings.signer is not None:
            try:
                text = self._settings.signer.check_step(message.id, place.field, text)
            except InvalidMessage as error:
                raise StepError(f"step {place.field!r} of job {message.id}: {error}") from None
        if text.startswith(MARK):
            text = yield from self._outside.get(place.field, text)
        text = message.decode_result(self._settings.payload_codec, text, "step")
        try:
            return codec.decode_result(text)
        except PayloadError as error:
            raise StepChanged(
                f"step {place.field!r} of job {self._message.id}: what attempt {kept.attempt} kept does not fit "
                f"the type of its result any more"
            ) from error

    def _codec(self, fn: Callable[..., Any]) -> Codec:
        method: MethodType | None = fn if inspect.ismethod(fn) else None
        plain = fn if method is None else method.__func__
        # What is too large for the record goes outside of it, where there is a hook.
        limit = self._settings.payload_limit if self._settings.blobs is None else sys.maxsize
        name = getattr(fn, "__qualname__", repr(fn))
        # What closes over something would keep it alive.
        make = _shared_codec if inspect.isfunction(plain) and not plain.__closure__ else _codec
        return make(plain, name, limit)

    def _stale(self) -> StaleAttempt:
        return StaleAttempt(f"attempt {self._attempt} of job {self._message.id} was ended by somebody else")

    def _ask(self, call: Callable[[], T]) -> T:
        """The store's answer. While it is away it is asked again: a result that was paid for is not thrown away."""
        while True:
            try:
                return call()
            except StoreAway as error:
                if self._over:
                    raise
                message, attempt = self._message, self._attempt
                about = {"job_id": message.id, "task": message.task, "attempt": attempt}
                log.warning("job %s: a step waits for the store: %s", message.id, error, extra=about)
                time.sleep(PAUSE)


def _in_thread(work: Waiting[T]) -> T:
    while True:
        pause, value = _went_on(work)
        if pause is None:
            return value
        time.sleep(pause)


async def _on_loop(work: Waiting[T]) -> T:
    """Each try in a thread, and the waits on the loop: whoever waits for a server keeps no thread from the others."""
    while True:
        pause, value = await asyncio.to_thread(_went_on, work)
        if pause is None:
            return value
        await asyncio.sleep(pause)


def _went_on(work: Waiting[T]) -> tuple[float, Any] | tuple[None, T]:
    """Seconds to wait, or what came of it."""
    try:
        return next(work), None
    except StopIteration as end:
        return None, end.value


def _codec(fn: Callable[..., Any], name: str, limit: int) -> Codec:
    remedy = f"set blobs, {ELSEWHERE}, or raise the setting payload_limit"
    return Codec(fn, task=f"step {name}", limit=limit, remedy=remedy)


_shared_codec = lru_cache(maxsize=256)(_codec)
