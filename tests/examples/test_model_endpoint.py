"""The model that the examples are tried on: it says how to reach it, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request

from examples_place import EXAMPLES

HEARD = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_path("model_endpoint.py", run_name="__main__")
"""


def test_it_prints_what_to_paste_and_answers() -> None:
    with subprocess.Popen(
        # A shell has its background jobs ignore SIGINT, and Python leaves it so.
        [sys.executable, "-W", "error", "-c", HEARD],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            first, second = process.stdout.readline(), process.stdout.readline()
            assert second.startswith("export SCALE=0.05 ")
            url = first.split()[1].removeprefix("OPENAI_BASE_URL=")
            request = urllib.request.Request(
                f"{url}/chat/completions",
                data=json.dumps(
                    {"messages": [{"role": "user", "content": "It rained all day in the north."}]}
                ).encode(),
                headers={"X-Client-Request-Id": "minutes"},
            )
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=30) as answer:
                said = json.load(answer)["choices"][0]["message"]["content"]
            assert said.startswith("It rained all day in the north.")
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
