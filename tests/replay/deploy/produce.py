"""Enqueue jobs of the shop in the folder that the command line names, and say what each has to come to.

    python produce.py FOLDER COUNT

One JSON line for each job: id, task, which version's workers can run it, its result.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

sys.path.insert(0, sys.argv[1])
shop = importlib.import_module("shop")

for number in range(int(sys.argv[2])):
    kinds = len(shop.REQUESTS)
    # Shifted by one in each round: two workers that take turns would else have only what each of them can run.
    by, task, args, kwargs, expected = shop.REQUESTS[(number + number // kinds) % kinds](number)
    job = task.enqueue(*args, **kwargs)
    print(json.dumps([job.id, task.name, by, expected]), flush=True)
    time.sleep(0.05)
