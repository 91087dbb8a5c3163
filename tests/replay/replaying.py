"""Put a recording into a server: what the store and the broker held when the next version was deployed."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
AGO = 300_000  # ms between the recording and the replay
MOMENT = re.compile(r"\b1[0-9]{12}\b")  # milliseconds since the epoch, as all times of the record are


class Recording:
    """What record.py wrote. `jobs` says for each what it was then and what it has to come to."""

    def __init__(self, path: Path) -> None:
        self._said = json.loads(path.read_text("utf-8"))
        self.keys: dict[str, dict[str, Any]] = self._said["keys"]

    @property
    def settings(self) -> dict[str, str]:
        """What its programs had set, and who replays it has to set too."""
        return {"codec": "replay_tasks:Shifted"} if self._said["writes"]["message"] >= 2 else {}

    def jobs(self, engine: str) -> list[dict[str, Any]]:
        return self._said["jobs"][engine]

    def load(self, client: Any) -> None:
        """As it was, but for the date: the whole is moved in time, so that it was recorded some minutes ago."""
        seconds, micros = client.time()
        by = seconds * 1000 + micros // 1000 - AGO - self._said["now_ms"]
        for key, said in self.keys.items():
            if 0 < said["pttl"] <= AGO:
                continue  # gone by now: RQ's entry of the worker that was killed
            move = (
                (lambda text: MOMENT.sub(lambda m: str(int(m[0]) + by), text)) if key.startswith("queuekit:") else str
            )
            self._put(client, key, said["type"], said["value"], move)
            if said["pttl"] > 0:
                client.pexpire(key, said["pttl"] - AGO)

    def _put(self, client: Any, key: str, kind: str, value: Any, move: Any) -> None:
        def raw(one: Any) -> Any:
            return base64.b64decode(one["base64"]) if isinstance(one, dict) else move(one)

        match kind:
            case "string":
                client.set(key, raw(value))
            case "hash":
                client.hset(key, mapping={raw(name): raw(one) for name, one in value})
            case "list":
                client.rpush(key, *map(raw, value))
            case "set":
                client.sadd(key, *map(raw, value))
            case "zset":
                moments = ("due:", "outbox:", "marks:", "workers", "dead")
                timed = key.startswith("queuekit:") and key.partition("}:")[2].startswith(moments)
                client.zadd(key, {raw(one): score + by_if(timed, move, score) for one, score in value})
            case "stream":
                for at, fields in value:
                    client.xadd(key, {raw(name): raw(one) for name, one in fields}, id=at)


def by_if(timed: bool, move: Any, score: float) -> float:
    return int(move(str(int(score)))) - int(score) if timed else 0
