"""Nobody imports this: what does leaves a file, and so does what calls anything in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

Path(os.environ["FUZZ_BOMB"]).touch()


def __getattr__(name: str) -> Any:
    return lambda *args, **kwargs: None
