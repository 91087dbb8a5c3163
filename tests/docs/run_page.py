"""Runs one page from top to bottom, in the current folder, which is empty: python run_page.py PAGE

In a process of its own, since a page declares tasks, imports the files that it has written, and sets the environment.
Ends with 1 and says which line of the page does not hold.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from page_blocks import blocks_of

if TYPE_CHECKING:
    from page_blocks import Block

COMMAND_TIMEOUT = 200  # seconds


class Run:
    """What the blocks of a page share: one namespace, one environment, the commands that run in the background."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": page.stem.replace("-", "_")}
        self.printed = ""
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self, block: Block) -> None:
        if block.mark == "not run":
            return
        if block.language == "python":
            self._python(block)
        elif block.language in {"console", "sh", "bash"}:
            self._commands(block)
        elif block.mark == "output":
            self._compare(block.text, self.printed)
        elif block.language in {"toml", "json", "yaml", "ini"}:
            self._data(block)

    def _python(self, block: Block) -> None:
        if block.file is not None:
            path = Path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            logged = self._logged()
            path.write_text(block.text)
            importlib.invalidate_caches()
            if not path.name.startswith("test_") and path.name != "conftest.py":
                self._check_syntax(path)
            self._seen_by_the_background(logged)
            return
        # Filled up, so that a traceback shows the page's own line.
        code = compile("\n" * (block.line - 1) + block.text, str(self.page), "exec")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, self.names)
        self.printed = out.getvalue()

    def _logged(self) -> int:
        return sum(log.stat().st_size for log in Path.cwd().glob("background-*.log"))

    def _seen_by_the_background(self, logged: int) -> None:
        """A development worker that has the file starts anew, and says so. One that has not says nothing."""
        until = time.monotonic() + 3 if self.background else 0
        while self._logged() == logged and time.monotonic() < until:
            time.sleep(0.05)

    def _check_syntax(self, path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"import {path.stem}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"{path} cannot be imported:\n{done.stderr}")

    def _commands(self, block: Block) -> None:
        for command, expected in commands(block):
            if command.startswith("export "):
                for pair in shlex.split(command)[1:]:
                    name, _, value = pair.partition("=")
                    os.environ[name] = value
            elif block.mark == "background":
                with Path(f"background-{len(self.background)}.log").open("wb") as log:
                    self.background.append(
                        subprocess.Popen(
                            ["bash", "-c", command],
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                        )
                    )
            else:
                done = subprocess.run(
                    ["bash", "-ec", command], capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT
                )
                self.printed = done.stdout + done.stderr
                if done.returncode and not expected:
                    raise AssertionError(f"$ {command}\nended with {done.returncode}:\n{self.printed}")
                if expected:
                    self._compare(expected, self.printed)

    def _compare(self, expected: str, printed: str) -> None:
        if not doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS):
            raise AssertionError(f"the page says\n{expected}\nand it is\n{printed}")

    def _data(self, block: Block) -> None:
        if block.language == "json":
            json.loads(block.text)
        if block.language == "toml":
            tomllib.loads(block.text)
            if block.file in {"queuekit.toml", "pyproject.toml"}:
                Path(block.file).write_text(block.text)
                from queuekit.settings import load

                load(environ={})  # whether they can be in the file together; Raises ConfigError

    def close(self) -> None:
        for process in self.background:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def commands(block: Block) -> list[tuple[str, str]]:
    """Each command with the output that is shown below it. Without prompts the whole block is one command."""
    if block.language != "console":
        return [(block.text, "")]
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].partition("   # ")[0].strip(), ""))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.strip(), "")
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def main(page: Path) -> int:
    sys.path.insert(0, str(Path.cwd()))
    run = Run(page)
    try:
        for block in blocks_of(page):
            try:
                run.run(block)
            except BaseException:
                print(f"{page}:{block.line}: this {block.language} block does not hold", file=sys.stderr)
                traceback.print_exc()
                for log in sorted(Path.cwd().glob("background-*.log")):
                    print(f"---- {log.name}\n{log.read_text('utf-8', 'replace')[-3000:]}", file=sys.stderr)
                return 1
    finally:
        run.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
