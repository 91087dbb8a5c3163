"""What the programs here share: who is compared, a Redis of their own, a worker that is watched, and what is noted.

Each program measures in rounds, in which the contenders take turns. What one of them does not do (it ends with an
error, or stands still) is noted as failed, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import redis

from queuekit.testing.servers import RedisServer, find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

SIDES = Path(__file__).parent / "sides"
ENGINES = ("celery", "rq", "dramatiq")
PEERS = {"arq": "arq", "taskiq": "taskiq taskiq-redis", "streaq": "streaq", "huey": "huey", "gevent": "celery gevent"}
PATIENCE = 300.0  # seconds for one answer of a side
STALLED = 30.0  # seconds


@dataclass(frozen=True)
class Contender:
    """
    Attributes:
        name: as the tables have it.
        kind: "queuekit", "engine" (alone) or "peer".
        engine: of the first two, which.
        module: in sides/.
        pools: the only ones that are measured; all of the side's where there are none.
        python: that has its packages.
        more: what is added to its environment.

    """

    name: str
    kind: str
    engine: str
    module: str
    pools: tuple[str, ...] = ()
    python: str = sys.executable
    more: tuple[tuple[str, str], ...] = ()

    @property
    def base(self) -> str:
        """Whose figures its own are compared with."""
        return self.engine if self.kind == "queuekit" else ""

    def environ(self, url: str, pool: str, log: Path) -> dict[str, str]:
        bench = {"BENCH_URL": url, "BENCH_POOL": pool, "BENCH_LOG": str(log), "PYTHONPATH": str(SIDES)}
        ours = {"BACKEND": self.engine, "BROKER_URL": url, "NAMESPACE": "bench", "RESULT_TTL": "3600"}
        return {**os.environ, **bench, **{f"QUEUEKIT_{name}": value for name, value in ours.items()}, **dict(self.more)}

    def mine(self, pools: dict[str, Any]) -> dict[str, Any]:
        """Those of the side's pools that are measured here. gevent is in the environment of the peers alone."""
        return {pool: one for pool, one in pools.items() if (pool in self.pools if self.pools else pool != "gevent")}


def contenders(engines: tuple[str, ...], peers: Sequence[str] | None) -> tuple[list[Contender], dict[str, str]]:
    """Who takes part; and who does not, with the reason. Each peer is run by the first of the Pythons that has it.
    None: the program has no use for them."""
    found = [
        contender
        for engine in engines
        for contender in (
            Contender(engine, "engine", engine, f"bare_{engine}"),
            Contender(f"queuekit on {engine}", "queuekit", engine, "ours"),
        )
    ]
    absent: dict[str, str] = {}
    if peers is None:
        return found, absent
    for peer, packages in PEERS.items():
        missing = {python: _missing(python, packages) for python in peers}
        able = [python for python, what in missing.items() if not what]
        if not able:
            name = "celery gevent" if peer == "gevent" else peer
            absent[name] = "; ".join(missing.values()) or f"no --peers PYTHON, of an environment with {packages}"
        elif peer == "gevent":
            if "celery" not in engines:
                continue
            found.append(Contender("celery", "engine", "celery", "bare_celery", ("gevent",), able[0]))
        else:
            found.append(Contender(peer, "peer", "", f"peer_{peer}", (), able[0]))
            if peer == "taskiq":
                found.append(replace(found[-1], name="taskiq (list)", more=(("BENCH_LIST", "1"),)))
    return found, absent


def _missing(python: str, packages: str) -> str:
    wanted = f"import importlib.metadata as m; [m.version(one) for one in {packages.split()!r}]"
    try:
        done = subprocess.run([python, "-c", wanted], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python}: {error.strerror}"
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


# ---- a run ---------------------------------------------------------------------------------------------------------


def arguments(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only these")
    parser.add_argument("--rounds", type=int, help="5, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see whether everything works")
    parser.add_argument(
        "--peers", metavar="PYTHON", action="append", default=[], type=os.path.abspath,
        help="of an environment with what benchmarks/peers.txt or benchmarks/arq.txt lists; may be given twice",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the figures as JSON")
    return parser


def a_redis(folder: Path) -> RedisServer:
    """One that keeps nothing on disk, and is not started yet."""
    return RedisServer(find_server("redis"), folder / "redis", options=["--appendonly", "no", "--save", ""])


class Bench:
    """A run of one program: `with Bench(name, asked) as bench`. It has a Redis of its own, which keeps nothing on
    disk, and writes what was noted at its end."""

    def __init__(self, program: str, asked: argparse.Namespace, *, peers: bool = True) -> None:
        self.program, self.quick, self.out = program, asked.quick, asked.out
        self.rounds: int = asked.rounds or (1 if asked.quick else 5)
        self.engines: tuple[str, ...] = tuple(asked.engine or ENGINES)
        self.contenders, self.absent = contenders(self.engines, asked.peers if peers else None)
        self.found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # (what, of whom)
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._sides: dict[Contender, dict[str, Any]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its workers are not to stay behind
        self.began = time.monotonic()
        folder = Path(self._stack.enter_context(TemporaryDirectory()))
        self.log = folder / "log"
        self.log.touch()
        self.url = self._stack.enter_context(a_redis(folder)).url
        self.client = self._stack.enter_context(redis.Redis.from_url(self.url))
        self.server = self.client.info("server")["redis_version"]
        for contender in list(self.contenders):
            with self.whatever(contender.name):
                self._sides[contender] = self.ask(contender, "about")
        self.contenders = list(self._sides)
        for name, reason in self.absent.items():
            print(f"left out: {name}: {reason}", flush=True)
        return self

    @contextmanager
    def another_server(self) -> Iterator[str]:
        """The URL of a Redis like the run's own."""
        with TemporaryDirectory() as folder, a_redis(Path(folder)) as server:
            yield server.url

    def __exit__(self, kind: object, *_: object) -> None:
        self._stack.close()
        if kind is None:
            print("\n" + "\n".join(table(self.saved(), what) for what in dict.fromkeys(what for what, _ in self.found)))
            if self.out is not None:
                self.out.mkdir(parents=True, exist_ok=True)
                (self.out / f"{self.program}.json").write_text(json.dumps(self.saved(), indent=1) + "\n")

    def turns(self) -> Iterator[Contender]:
        """Each of the contenders in each round, on an empty Redis."""
        for _ in range(self.rounds):
            for contender in self.contenders:
                self.empty()
                yield contender

    def empty(self) -> None:
        self.client.flushall(asynchronous=True)  # a million records take longer than an answer may
        self.log.write_text("")

    def ask(self, contender: Contender, *args: object, pool: str = "") -> Any:
        command = [contender.python, "ask.py", contender.module, *map(str, args)]
        environ = contender.environ(self.url, pool, self.log)
        done = subprocess.run(
            command, cwd=SIDES, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{args}: {done.stderr.strip()[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def about(self, contender: Contender) -> dict[str, Any]:
        """What the side says of itself: its pools, and where its results are."""
        return self._sides[contender]

    def working(self, contender: Contender, command: list[str], pool: str) -> Working:
        environ = contender.environ(self.url, pool, self.log)
        return Working([contender.python, *command], environ)

    def counter(self, contender: Contender) -> Callable[[], int]:
        """How many results there are."""
        how, where = self.about(contender)["stored"]
        if how == "scan":
            return lambda: sum(1 for _ in self.client.scan_iter(where, count=10_000))
        return lambda: getattr(self.client, how)(where)

    @contextmanager
    def whatever(self, whom: str) -> Iterator[None]:
        """What does not end well is noted, and not the end of the run."""
        try:
            yield
        except (
            RuntimeError,
            subprocess.TimeoutExpired,
            OSError,
            ValueError,
            AssertionError,
            redis.RedisError,
        ) as error:
            print(f"FAILED: {whom}: {error}", flush=True)
            self.failed[whom] = f"{type(error).__name__}: {error}"[:500]

    def note(
        self,
        what: str,
        whom: str,
        figure: float,
        unit: str,
        *,
        kind: str = "",
        base: str = "",
        note: str = "",
        at: tuple[str, int, str] | None = None,
    ) -> None:
        """A figure of one round. `base` is the row whose figure it is compared with; `at` says for a plot which line
        it is a point of, where on it, and in what unit that is."""
        self.found[what, whom].append(figure)
        self.rows[what, whom] = {"unit": unit, "kind": kind, "base": base, "note": note, "at": at}
        print(f"{what:24} {whom:36} {figure:12,.2f} {unit}", flush=True)

    def saved(self) -> dict[str, Any]:
        versions = {name: version(name) for name in ("queuekit", *ENGINES, "kombu", "redis")}
        return {
            "program": self.program,
            "quick": self.quick,
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
            "python": platform.python_version(),
            "server": f"Redis {self.server}",
            "rounds": self.rounds,
            "versions": versions,
            "peers": versions_of(one for one in self.contenders if one.python != sys.executable),
            "absent": self.absent,
            "failed": self.failed,
            "found": [
                {"what": what, "whom": whom, **self.rows[what, whom], "figures": [round(one, 5) for one in figures]}
                for (what, whom), figures in self.found.items()
            ],
        }


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def versions_of(peers: Iterable[Contender]) -> dict[str, str]:
    """Of what each has, and of the Redis client that goes with it."""
    say = "import importlib.metadata as m, json; print(json.dumps([f'{n} {m.version(n)}' for n in %r]))"
    found = {}
    for peer in peers:
        packages = PEERS["gevent" if peer.engine else peer.module.removeprefix("peer_")].split()
        client = "coredis" if peer.name == "streaq" else "redis"
        command = [peer.python, "-c", say % [*packages, client]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[f"{peer.name} {' '.join(peer.pools)}".strip()] = ", ".join(json.loads(done.stdout or "[]"))
    return found


# ---- a worker ------------------------------------------------------------------------------------------------------


class Working:
    """A worker that runs for as long as it is measured."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=SIDES,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _stats(self) -> Iterator[tuple[int, list[str]]]:
        """Of its processes: those of its session, and its children."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid or int(fields[1]) == self.process.pid:
                    yield int(stat.parent.name), fields

    def cpu(self) -> float:
        """Seconds that its processes have had, and those that it has seen end."""
        ticks = sum(sum(map(int, fields[11:15])) for _, fields in self._stats())
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> dict[int, float]:
        """Of each of its processes, in MB (10^6 bytes)."""
        page = os.sysconf("SC_PAGE_SIZE")
        return {pid: int(fields[21]) * page / 1e6 for pid, fields in self._stats()}

    def check(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker has ended with {self.process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.memory():  # what it left behind: a worker that is killed leaves its children
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


def wait_for(count: int, done: Callable[[], int], worker: Working) -> Iterator[int]:
    """How many there are, each time that it looks, until there are so many. Raises RuntimeError where they get no more
    for STALLED seconds, which is how results that are lost show."""
    number, more = -1, time.monotonic()
    while number < count:
        before, number = number, done()
        yield number
        worker.check()
        more = more if number == before else time.monotonic()
        if time.monotonic() > more + STALLED:
            raise RuntimeError(f"{number} of {count} results, and no more of them in {STALLED:.0f} s")
        time.sleep(0.02)


def drained(count: int, done: Callable[[], int], worker: Working) -> tuple[float, float]:
    """Jobs a second, and milliseconds of CPU for each, from the first tenth on, by what results there are."""
    marks: list[tuple[float, int]] = []
    used = 0.0
    for number in wait_for(count, done, worker):
        if number >= count / 10 and (not marks or number > marks[-1][1]):
            used = used if marks else worker.cpu()
            marks.append((time.perf_counter(), number))
    (began, first), (ended, last) = marks[0], marks[-1]
    if last == first:
        raise RuntimeError(f"{count} jobs are too few to tell a rate: all were done at one look")
    return (last - first) / (ended - began), 1000 * (worker.cpu() - used) / (last - first)


# ---- what is written -----------------------------------------------------------------------------------------------


def medians(saved: dict[str, Any], what: str) -> dict[str, float]:
    return {row["whom"]: statistics.median(row["figures"]) for row in saved["found"] if row["what"] == what}


def table(saved: dict[str, Any], what: str, level: str = "###") -> str:
    """The medians, what the rounds gave, and the ratios to the engine alone and to the best peer."""
    rows = [row for row in saved["found"] if row["what"] == what]
    figures = medians(saved, what)
    unit = rows[0]["unit"]
    better = max if unit in {"jobs/s", "jobs"} else min
    peers = [figures[row["whom"]] for row in rows if row["kind"] == "peer"]
    heads = [f"{what}, {unit}" if unit else what, "median", "rounds"]
    heads += ["of its base"] if any(row["base"] for row in rows) else []
    heads += ["of the best peer"] if peers else []
    out = [f"{level} {what[0].upper()}{what[1:]}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        figure = figures[row["whom"]]
        name = row["whom"] + (f" ({row['note']})" if row["note"] else "")
        cells = [name, digits(figure), f"{digits(min(row['figures']))} to {digits(max(row['figures']))}"]
        if "of its base" in heads:
            base = figures.get(row["base"])
            cells.append("" if not base or row["base"] == row["whom"] else f"{figure / base:.2f}")
        if peers:
            cells.append(f"{figure / better(peers):.2f}" if better(peers) else "")
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join([*out, ""])


def digits(figure: float) -> str:
    """Three of them, where it is not a large number."""
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    if abs(figure) >= 1:
        return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"
    return f"{figure:.2g}"
