"""Hostile messages, by a seed: from real ones that were taken out of the broker, and from nothing.

A message is what its engine's wire takes: see wires.py. Whatever asks for code asks for fuzz.trap, which notes that it
ran, for fuzz_bomb, which leaves a file when it is imported, or is a pickle that leaves one when it is read.
"""

from __future__ import annotations

import base64
import bz2
import copy
import json
import pickle
import random
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from queuekit.testing.raw import Bomb

Item = Any  # of a wire
HEADER = "queuekit"
BOMB = "fuzz_bomb.call"
IDS = ("../../etc/passwd", "", " ", "a b", "x" * 129, "ü", "a\nb", "%s{0}", "rq:job:1", "\0", "good", "-")
DEEP = 300


@cache
def zeros() -> bytes:
    """What becomes 64 MiB."""
    return zlib.compress(bytes(1 << 26), 9)


def deep(depth: int, *, table: bool = False) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value} if table else [value]
    return value


class Fuzz:
    """Numbered messages: the same seed and number, the same message, given the same real ones."""

    def __init__(self, seed: str, ran: Path) -> None:
        self.rng = random.Random(seed)
        self.pickle = pickle.dumps(Bomb(ran))

    # ---- values -----------------------------------------------------------------------------------------------------

    def junk(self) -> Any:
        rng = self.rng
        return rng.choice(
            [
                None, True, False, 0, -1, 1, 2**31, 2**53, -(2**63), 1e308, -0.0, 1.5, float("nan"), float("inf"), "",
                "0", "1", "\0", "\ud800", "x" * rng.randrange(1, 3000), [], {}, [None], {"": None}, [[1], {}, {}],
                deep(rng.randrange(2, 60)), deep(rng.randrange(2, 60), table=True), {"task": "fuzz.trap", "args": [1]},
                [{"task": "fuzz.trap", "args": [1], "kwargs": {}, "options": {}}], "fuzz.trap", BOMB, "os.system",
                "builtins.exec", {"__class__": "os.system"}, "2020-01-01T00:00:00", "not a date", "é" * 100,
                rng.random(), rng.randbytes(rng.randrange(40)).decode("latin-1"), *IDS,
            ]
        )  # fmt: skip

    def changed(self, value: Any, times: int = 1) -> Any:
        """A copy with something in it replaced, taken out or added."""
        value = copy.deepcopy(value)
        for _ in range(times):
            places = [(value, key) for key in _keys(value)]
            found: list[tuple[Any, Any]] = []
            while places:
                place = places.pop()
                found.append(place)
                inner = place[0][place[1]]
                places += [(inner, key) for key in _keys(inner)]
            if not found:
                return self.junk()
            where, key = self.rng.choice(found)
            match self.rng.randrange(4):
                case 0 if isinstance(where, dict):
                    del where[key]
                case 1 if isinstance(where, dict):
                    where[str(self.junk())[:50]] = self.junk()
                case _:
                    where[key] = self.junk()
        return value

    def header(self, real: dict[str, Any]) -> dict[str, Any]:
        """Ours, forged: another task or id, sent again under another, or with junk in it."""
        rng, header = self.rng, dict(real)
        match rng.randrange(8):
            case 0:
                header["task"] = "fuzz.trap"
            case 1:
                header["id"] = rng.choice([*IDS, f"forged-{rng.randrange(10**9)}"])
            case 2:
                header |= {"id": f"forged-{rng.randrange(10**9)}", "task": "fuzz.trap"}
            case 3:
                header["v"] = rng.choice([0, 2, 99, "1", None, True, 1.0])
            case 4:
                header["pseq"] = rng.choice([-1, 2**53, 2**62, "1", None, 1.5])
            case 5:
                header["signature"] = rng.choice(["", "0" * 64, None, 7, "é" * 64, rng.randbytes(32).hex()])
            case 6:
                header["epoch"] = rng.choice(["", "x" * 5000, rng.randbytes(8).hex()])
            case _:
                changed = self.changed(header)
                header = changed if isinstance(changed, dict) else header
        return header

    # ---- bytes ------------------------------------------------------------------------------------------------------

    def text(self, value: Any) -> bytes:
        """JSON of it; of what JSON cannot say too."""
        try:
            return json.dumps(value).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError, RecursionError):
            return repr(value).encode("utf-8", "backslashreplace")

    def torn(self, data: bytes) -> bytes:
        rng, at = self.rng, self.rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                return data[:at]
            case 1:
                return data[at:]
            case 2:
                return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
            case 3:
                return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 4:
                return data[: at // 2] + data[at:]
            case _:
                return data + data

    def noise(self) -> bytes:
        rng = self.rng
        return rng.choice(
            [
                b"", b"null", b"[]", b"{}", b"0", b'""', b"NaN", b"-Infinity", b"\xff\xfe\x00", b"\x80\x04.",
                b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"9" * 5000, b'{"a":' + b"1" * 5000 + b"}",
                self.pickle, zlib.compress(b"[]"), rng.randbytes(rng.randrange(1, 300)),
                b'{"options":{}}', b'{"body":"e30=","headers":{},"properties":{}}', b" " * 200_000, b"\0" * 50,
            ]
        )  # fmt: skip


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


# ---- Celery --------------------------------------------------------------------------------------------------------

CONTENT = (
    "application/x-python-serialize", "application/x-yaml", "application/x-msgpack", "application/data", "no/such",
    "text/plain", "", "application/json; charset=utf-7",
)  # fmt: skip


def celery(fuzz: Fuzz, real: dict[str, Any]) -> dict[str, Any]:
    """{"body": bytes, "headers", "properties", "content-type", "content-encoding"} of one."""
    rng, one = fuzz.rng, copy.deepcopy(real)
    headers, body = one["headers"], json.loads(one["body"])
    match rng.randrange(16):
        case 0:
            headers[HEADER] = fuzz.header(headers[HEADER])
        case 1:
            headers[HEADER] = fuzz.header(headers[HEADER])
            forged = headers[HEADER]
            headers |= {"task": forged.get("task"), "id": forged.get("id")}
            body[0] = [1, 2, 3]
        case 2:
            one["headers"] = fuzz.changed(headers, rng.randrange(1, 4))
        case 3:
            headers["id"] = rng.choice([*IDS, "replayed", 7, None])
        case 4:
            del headers[HEADER]
            headers["task"] = rng.choice(["fuzz.trap", "fuzz.good", "celery.map", "celery.chain", "os.system"])
        case 5:
            call = {"task": "fuzz.trap", "args": [1], "kwargs": {}, "options": {}, "subtask_type": None}
            body[2] = {rng.choice(["callbacks", "errbacks", "chain"]): [call], "chord": None}
        case 6:
            body[2] = {"callbacks": None, "errbacks": None, "chain": None, "chord": fuzz.junk()}
        case 7:
            for name in rng.sample(["eta", "expires", "group", "group_index", "chord", "shadow", "timelimit"], 3):
                headers[name] = fuzz.junk()
            for name in rng.sample(["retries", "root_id", "parent_id", "ignore_result", "stamps", "lang"], 2):
                headers[name] = fuzz.junk()
        case 8:
            one["content-type"] = rng.choice(CONTENT)
            one["body"] = rng.choice([fuzz.pickle, one["body"]])
            return one
        case 9:
            name = rng.choice(["gzip", "application/x-gzip", "bzip2", "xz", "zlib", "no/such", 7, [], {"a": 1}])
            headers["compression"] = name
            one["body"] = rng.choice([zeros(), zlib.compress(one["body"]), bz2.compress(one["body"]), one["body"]])
            return one
        case 10:
            one["body"] = fuzz.torn(one["body"])
            return one
        case 11:
            one["body"] = fuzz.noise()
            return one
        case 12:
            one["content-encoding"] = rng.choice(["utf-16", "no-such", "base64", "", "zlib", "utf-7"])
        case 13:
            name = rng.choice(["reply_to", "correlation_id", "priority", "delivery_mode", "type", "app_id"])
            one["properties"][name] = fuzz.junk()
            headers.pop(HEADER)
        case 14:
            body = {"task": "fuzz.trap", "id": "one", "args": [1], "kwargs": {}}  # of protocol 1
            one["headers"] = {}
        case _:
            body = fuzz.changed(body, rng.randrange(1, 3))
            headers[HEADER] = fuzz.header(headers[HEADER])
    one["body"] = fuzz.text(body)
    return one


def celery_on_redis(fuzz: Fuzz, real: list[dict[str, Any]]) -> bytes:
    rng = fuzz.rng
    one = celery(fuzz, rng.choice(real))
    match rng.randrange(8):
        case 0:
            return fuzz.noise()
        case 1:
            return fuzz.torn(envelope(one))
        case 2:
            read = json.loads(envelope(one))
            return fuzz.text(fuzz.changed(read, rng.randrange(1, 3)))
        case _:
            return envelope(one)


def envelope(one: dict[str, Any]) -> bytes:
    body = base64.b64encode(one["body"]).decode()
    return json.dumps({**one, "body": body}).encode("utf-8", "surrogatepass")


def celery_on_rabbitmq(fuzz: Fuzz, real: list[dict[str, Any]]) -> dict[str, Any]:
    one = celery(fuzz, fuzz.rng.choice(real))
    if not fuzz.rng.randrange(6):
        name = fuzz.rng.choice(["correlation_id", "content_type", "content_encoding", "reply_to", "type"])
        one["raw"] = {name: fuzz.rng.choice([b"\xff\xfe", b"\x80", b"x" * 255, b""])}
    return one


# ---- RQ ------------------------------------------------------------------------------------------------------------

FIELDS = (
    "created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "status", "timeout", "result_ttl", "ttl",
    "failure_ttl", "origin", "description", "worker_name", "group_id", "dependency_ids", "dependency_id", "webhooks",
    "allow_dependency_failures", "enqueue_at_front", "number_of_retries", "retries_left", "retry_intervals",
    "repeats_left", "repeat_intervals", "rate_limit_key", "rate_limit_concurrency", "exc_info", "result", "serializer",
    "success_callback_name", "failure_callback_name", "stopped_callback_name", "success_callback_timeout",
    "failure_callback_timeout", "stopped_callback_timeout", "job_class", "queue_class", "connection_class",
)  # fmt: skip


def rq(fuzz: Fuzz, real: list[dict[str, Any]]) -> dict[str, Any]:
    """{"id": bytes, "hash": fields, or None for no hash, or bytes for a key of another kind}."""
    rng, one = fuzz.rng, copy.deepcopy(rng_choice(fuzz, real))
    id, fields = f"fuzz-{rng.randrange(10**12)}".encode(), one["hash"]
    meta = json.loads(fields["meta"])
    header = meta[HEADER]
    call = json.dumps([BOMB, None, [1], {}]).encode()
    match rng.randrange(14):
        case 0:
            meta = {HEADER: fuzz.header(header)}
            id = str(meta[HEADER].get("id")).encode("utf-8", "replace") or b"x"
        case 1:
            meta = {HEADER: fuzz.header(header)}
        case 2:  # sent again, under another id
            id = rng.choice(IDS).encode() or b"y"
        case 3:
            meta = fuzz.changed(meta, rng.randrange(1, 3))
        case 4:
            fields["data"] = zlib.compress(call)
            meta = rng.choice([meta, {}])
            id = rng.choice([id, header["id"].encode() + b"-7"])
        case 5:
            fields["data"] = rng.choice([zlib.compress(fuzz.pickle), fuzz.pickle])
        case 6:
            fields["data"] = rng.choice([zeros(), zlib.compress(zeros()), fuzz.noise(), fuzz.torn(fields["data"])])
        case 7:
            for name in rng.sample(FIELDS, 4):
                fields[name] = rng.choice([fuzz.text(fuzz.junk()), str(fuzz.junk()).encode("utf-8", "replace"), BOMB])
        case 8:
            for name in FIELDS:
                if name.endswith("_name"):
                    fields[name] = BOMB
            meta = {HEADER: fuzz.header(header)}
        case 9:
            fields["exc_info"] = zeros()
            fields["result"] = fuzz.pickle
            fields["webhooks"] = json.dumps([{"url": "http://127.0.0.1:9/", "events": ["started"]}])
            fields["dependency_ids"] = json.dumps([header["id"]])
        case 10:
            fields = {rng.choice(FIELDS): fuzz.noise()}
            return {"id": id, "hash": fields}
        case 11:
            return {"id": rng.choice([b"\xff\xfe", b"\0", b"x" * 5000, b" ", b"a\nb", id]), "hash": None}
        case 12:
            return {"id": id, "hash": fuzz.noise() or b"x"}
        case _:
            fields["meta"] = rng.choice([fuzz.pickle, fuzz.noise(), b"[" * 100_000])
            return {"id": id, "hash": fields}
    fields["meta"] = fuzz.text(meta)
    return {"id": id, "hash": fields}


def rng_choice(fuzz: Fuzz, real: list[Any]) -> Any:
    return fuzz.rng.choice(real)


# ---- Dramatiq ------------------------------------------------------------------------------------------------------

OPTIONS = (
    "eta", "throws", "pipe_target", "pipe_ignore", "group_completion_uuid", "group_completion_callbacks", "on_success",
    "on_failure", "max_retries", "time_limit", "max_age", "notify_shutdown", "retries", "traceback", "requeue_timestamp",
    "result_ttl", "store_results", "min_backoff", "redis_message_id", "retry_when", "barrier_ttl",
)  # fmt: skip


def dramatiq(fuzz: Fuzz, real: list[bytes]) -> bytes:
    rng, raw = fuzz.rng, fuzz.rng.choice(real)
    one = json.loads(raw)
    options = one["options"]
    match rng.randrange(10):
        case 0:
            options[HEADER] = fuzz.header(options[HEADER])
        case 1:
            options[HEADER] = fuzz.header(options[HEADER])
            one |= {"actor_name": "fuzz.trap", "args": [1], "message_id": options[HEADER].get("id")}
        case 2:
            one["message_id"] = rng.choice([*IDS, "replayed", 7, None])
        case 3:
            del options[HEADER]
            one["actor_name"] = rng.choice(["fuzz.trap", "fuzz.good", "os.system", BOMB])
        case 4:
            for name in rng.sample(OPTIONS, 4):
                options[name] = fuzz.junk()
            options[HEADER] = fuzz.header(options[HEADER])
        case 5:
            one = fuzz.changed(one, rng.randrange(1, 4))
        case 6:
            return fuzz.torn(raw)
        case 7:
            return fuzz.noise()
        case 8:
            one["queue_name"] = rng.choice(["", "default", "x.DQ", "x.XQ", None, 7, "../x"])
            options[HEADER] = fuzz.header(options[HEADER])
        case _:
            one["args"] = rng.choice([None, {}, "abc", 7])
            one["kwargs"] = rng.choice([None, [], "abc", {"a": 1}])
    return fuzz.text(one)


MAKERS: dict[str, Callable[[Fuzz, list[Any]], Item]] = {
    "celery-redis": celery_on_redis,
    "celery-rabbitmq": celery_on_rabbitmq,
    "rq-redis": rq,
    "dramatiq-redis": dramatiq,
    "dramatiq-rabbitmq": dramatiq,
}
