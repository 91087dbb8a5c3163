"""Write the page of the certificate out of the results: certify.py FOLDER PAGE."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from storm import LEASE, LEFT_ALONE
from verdicts import page

ORDER = ["celery-prefork", "celery-prefork-rabbitmq", "rq-worker", "dramatiq", "dramatiq-rabbitmq"]
ENGINES = ("celery", "rq", "dramatiq", "redis", "kombu", "pika")


def main(folder: Path, out: Path) -> None:
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    ours = {name: found[name] for name in ORDER if name in found}
    bare = {name: row for name, row in sorted(found.items()) if name.startswith("bare-")}
    versions = ", ".join(f"{name} {version(name)}" for name in ENGINES)
    made = (
        f"Made on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()}, {versions}, "
        f"on {os.cpu_count()} cores."
    )
    out.write_text(
        page(
            ours,
            bare,
            jobs=f"{min(row['jobs'] for row in found.values()):,}",
            command="nox -s certificate",
            machine=made,
            left=LEFT_ALONE,
            lease=LEASE,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
