"""Makes docs/images/flower.png and rq-dashboard.png: the monitors beside real workers, by a headless Chromium.

`python tests/monitors/screenshots.py`, where the extra `monitors` is installed and a chromium is on PATH. Look at them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dashboards import flower, rq_dashboard
from states import AGENTS, Jobs

from queuekit.testing.bench import WorkerBench
from queuekit.testing.plugin import a_server
from queuekit.testing.target import find_targets

IMAGES = Path(__file__).parents[2] / "docs/images"


def photograph(url: str, name: str, size: str, folder: Path) -> None:
    chromium = shutil.which("chromium") or sys.exit("there is no chromium on PATH")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={folder / 'chromium'}", f"--window-size={size}", "--virtual-time-budget=4000",
        f"--screenshot={IMAGES / name}", url,
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size // 1024} kB")


def main(folder: Path) -> None:
    IMAGES.mkdir(exist_ok=True)
    with a_server(folder / "server") as server:
        for target in ("celery-prefork", "rq-worker"):
            (found,) = find_targets((target,))
            bench = WorkerBench(found, folder / target, broker_url=server.url, namespace="prod", concurrency=3)
            monitor = flower if target == "celery-prefork" else rq_dashboard
            with monitor(server.url, folder) as shown, bench.in_use():
                try:
                    bench.start_worker(str(AGENTS), ready=False, queues="documents")
                    jobs = Jobs(bench)
                    jobs.crash()
                    jobs.make()
                    if target == "celery-prefork":
                        lost = jobs.ids["lost"]
                        while shown.shows(lost) != "FAILURE":  # Celery takes ten seconds to say so
                            time.sleep(0.5)
                        photograph(f"{shown.url}/tasks", "flower.png", "1600,800", folder)
                    else:
                        finished = "queuekit.prod.documents.p0/finished/8/asc/1"
                        photograph(f"{shown.url}/0/view/queues", "rq-dashboard.png", "1400,540", folder)
                        photograph(f"{shown.url}/0/view/jobs/{finished}", "rq-dashboard-jobs.png", "1400,610", folder)
                finally:
                    bench.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
