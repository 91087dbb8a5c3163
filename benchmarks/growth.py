"""What jobs cost while the backlog grows, and while their payloads do.

python benchmarks/growth.py                                      three rounds; a million jobs take 4 GB
python benchmarks/growth.py --what payload --engine rq

backlog     with 10^3, 10^4, 10^5 and 10^6 jobs waiting on a Redis: milliseconds for one call of enqueue(), for the
            store's claim of one job, and for a tick of the steward, each from one process and with the round trip; in
            turn with another Redis, on which 10^3 are waiting
payload     with 100 bytes to 1 MB of arguments: jobs a second that one process enqueues, and that a worker runs,
            beside the engine alone
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any

from measuring import Bench, arguments, drained

from queuekit import App, Settings, agent_task
from queuekit.store import Claimed, IfEnded
from queuekit.store.ends import write_end
from queuekit.ticks import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable

    from measuring import Contender

SIZES = (1000, 10_000, 100_000, 1_000_000)
PAYLOADS = (100, 1000, 10_000, 100_000, 1_000_000)  # bytes
POOLS = {"celery": "prefork", "rq": "simple", "dramatiq": "threads"}


@agent_task(name="waiting")
def waiting(text: str) -> int:
    return len(text)


# ---- backlog -------------------------------------------------------------------------------------------------------


def backlog(bench: Bench) -> None:
    sizes = SIZES[:2] if bench.quick else SIZES
    for _ in range(bench.rounds):
        for engine in bench.engines:
            bench.empty()
            with (
                bench.whatever(f"backlog on {engine}"),
                bench.another_server() as url,
                closing(app_on(engine, url)) as few,
                closing(app_on(engine, bench.url)) as many,
            ):
                fill(few, SIZES[0])
                there = 0
                for size in sizes:
                    fill(many, size - there)
                    there = size
                    look(bench, engine, size, few, many)


def app_on(engine: str, url: str) -> App:
    return App(Settings(backend=engine, broker_url=url, namespace="bench"))


def fill(app: App, count: int) -> None:
    with app.activate():
        deque(waiting.enqueue_batches(("x" * 90,) for _ in range(count)), maxlen=0)


def look(bench: Bench, engine: str, size: int, few: App, many: App) -> None:
    """Measure with so many jobs waiting, or a few more; in turn with a server on which there are a thousand, since what
    a machine gives from one minute to the next differs by more than what is looked for."""
    count, apps = 50 if bench.quick else 500, (few, many)
    jobs: dict[App, list[str]] = {few: [], many: []}
    tickers = {app: Ticker(app.store, app.adapter, late=app.settings.lease) for app in apps}

    def note(what: str, times: int, call: Callable[[App], float]) -> None:
        seconds: dict[App, list[float]] = {few: [], many: []}
        for _ in range(times):
            for app in apps:
                seconds[app].append(call(app))
        beside = f"{engine}, {SIZES[0]:,} beside"
        rows = {
            few: (f"{beside} {size:,}", f"{beside} them", ""),
            many: (f"{engine}, {size:,}", f"queuekit on {engine}", f"{beside} {size:,}"),
        }
        for app, (whom, line, base) in rows.items():
            bench.note(
                f"{what} by backlog", whom, 1000 * statistics.median(seconds[app]), "ms", kind="queuekit", base=base,
                at=(line, size, "jobs waiting"),
            )  # fmt: skip

    def enqueue(app: App) -> float:
        with app.activate():
            return timed(lambda: jobs[app].append(waiting.enqueue("x" * 90).id))

    note("enqueue", count, enqueue)
    note("claim", count, lambda app: claim(app, engine, jobs[app].pop(0)))
    for ticker in tickers.values():
        ticker.tick()  # sees to what there is to do
    note("steward's tick", 20, lambda app: timed(tickers[app].tick))


def claim(app: App, engine: str, id: str) -> float:
    """Seconds for the claim of a job, which is ended then: what its worker would have left is out of the way."""
    store, route = app.store, app.store.routes(engine)[0]
    store.beat("host.1.aa", start=True)
    lost = IfEnded(None, "", write_end("failed"), "its worker died")
    asked: dict[str, Any] = {
        "id": id,
        "epoch": store.epoch(),
        "pseq": 1,
        "route": route,
        "worker": "host.1.aa",
        "process": "1:1",
    }
    more: Any = {"token": id, "timeout": None, "seen": "", "on_lost": lost, "on_limit": lost}
    began = time.perf_counter()
    answer = store.claim(**asked, **more)
    seconds = time.perf_counter() - began
    assert isinstance(answer, Claimed), f"job {id}: {answer}"
    store.finish(id, id, write_end("succeeded"), "90")
    return seconds


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# ---- payloads ------------------------------------------------------------------------------------------------------


def payload(bench: Bench) -> None:
    sizes = PAYLOADS[::2] if bench.quick else PAYLOADS
    for contender in bench.turns():
        pool = POOLS[contender.engine]
        for size in sizes:
            count = max(20, min(3000, 30_000_000 // size)) // (10 if bench.quick else 1)
            count = max(count, 20)

            def note(what: str, figure: float, contender: Contender = contender, size: int = size) -> None:
                bench.note(
                    f"{what} by payload", f"{contender.name}, {size:,}", figure, "jobs/s", kind=contender.kind,
                    base=contender.base and f"{contender.base}, {size:,}", at=(contender.name, size, "bytes"),
                )  # fmt: skip

            with bench.whatever(f"payload of {size:,} on {contender.name}"):
                bench.empty()
                said = bench.ask(contender, "enqueue", count - 1, size, pool=pool)
                note("enqueue", (count - 1) / said["seconds"])
                command = bench.about(contender)["workers"][pool]
                with bench.working(contender, command, pool) as worker:
                    note("throughput", drained(count, bench.counter(contender), worker)[0])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--what", action="append", choices=["backlog", "payload"])
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    with Bench("growth", asked, peers=False) as bench:
        for what in asked.what or ("backlog", "payload"):
            {"backlog": backlog, "payload": payload}[what](bench)


if __name__ == "__main__":
    main()
