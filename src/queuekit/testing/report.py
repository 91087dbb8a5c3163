"""The table of the conformance suite: clause by target."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from _pytest.terminal import TerminalReporter

__all__ = ["GAP", "NOTE", "NOT_APPLICABLE", "PROPERTY", "Collector"]

GAP = "gap declared by the adapter: "
NOT_APPLICABLE = "does not apply: "
PROPERTY = "queuekit"
NOTE = "queuekit-note"
"""record_property(NOTE, text): a line under the table."""


@dataclass(frozen=True)
class Result:
    """One test on one target."""

    clause: str
    title: str
    target: str
    test: str
    outcome: str  # passed | failed | gap | n/a | skipped
    reason: str = ""
    seconds: float = 0.0


class Collector:
    """A pytest plugin of its own, so that it can keep what it has seen. Does nothing where no clause was run."""

    def __init__(self, config: pytest.Config) -> None:
        self._file = config.getoption("--queuekit-report")
        self._check_gaps = config.getoption("--queuekit-check-gaps")
        self.results: list[Result] = []
        self.said: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.when == "teardown" and NOTE in properties:
            self.said.append(str(properties[NOTE]))
        said = properties.get(PROPERTY)
        if not isinstance(said, dict):
            return
        if report.when != "call" and report.passed:
            return
        outcome, reason = str(report.outcome), ""
        if hasattr(report, "wasxfail"):  # a gap that was looked into
            outcome, reason = ("gap", report.wasxfail) if report.skipped else ("held", report.wasxfail)
        elif report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            outcome = "skipped"
            for start, kind in ((GAP, "gap"), (NOT_APPLICABLE, "n/a")):
                if reason.startswith(start):
                    outcome, reason = kind, reason.removeprefix(start)
        self.results.append(Result(**said, outcome=outcome, reason=reason, seconds=round(report.duration, 2)))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._stale_gaps() and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if not self.results and not self.said:
            return
        terminalreporter.section("queuekit")
        for line in [*(self._plain() if self.results else []), *self.said]:
            terminalreporter.line(line)
        if self._file:
            path = Path(self._file)
            path.write_text(self.as_json() if path.suffix == ".json" else self.as_markdown(), "utf-8")
            terminalreporter.line(f"written to {path}")

    # ---- the table --------------------------------------------------------------------------------------------------

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(one.target for one in self.results))

    @property
    def clauses(self) -> list[tuple[str, str]]:
        found = {one.clause: one.title for one in self.results}
        return sorted(found.items(), key=lambda pair: (len(pair[0]), pair[0]))

    def cell(self, clause: str, target: str) -> str:
        """FAILED before GAP before PASSED; SKIPPED or n/a where nothing was run."""
        every = [one for one in self.results if (one.clause, one.target) == (clause, target)]
        count = {outcome: sum(one.outcome == outcome for one in every) for outcome in ("passed", "failed", "skipped")}
        if count["failed"]:
            return f"FAILED {count['failed']} of {len(every)}"
        if any(one.outcome in {"gap", "held"} for one in every):
            return "GAP"
        if count["passed"]:
            return f"PASSED {count['passed']}" + (f", {count['skipped']} skipped" if count["skipped"] else "")
        return "SKIPPED" if count["skipped"] else "n/a"

    def _stale_gaps(self) -> list[str]:
        if not self._check_gaps:
            return []
        out = []
        for clause, _ in self.clauses:
            for target in self.targets:
                seen = {one.outcome for one in self.results if (one.clause, one.target) == (clause, target)} - {"n/a"}
                if seen == {"held"}:
                    out.append(f"{clause} holds on {target}: the declared gap can go")
        return out

    def _notes(self) -> list[str]:
        """Why something is not there, once for each reason."""
        found: dict[str, set[str]] = {}
        for one in self.results:
            if one.outcome in {"gap", "skipped", "n/a"}:
                found.setdefault(f"{one.clause}, {one.outcome}: {one.reason}", set()).add(one.target)
        return [f"{what} [{', '.join(sorted(targets))}]" for what, targets in found.items()] + self._stale_gaps()

    def _plain(self) -> list[str]:
        rows = [["clause", *self.targets]]
        rows += [[clause, *(self.cell(clause, target) for target in self.targets)] for clause, _ in self.clauses]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return [*lines, "", *self._notes()]

    def as_markdown(self) -> str:
        lines = [f"| Clause | {' | '.join(self.targets)} |", f"|---|{'---|' * len(self.targets)}"]
        for clause, title in self.clauses:
            cells = " | ".join(self.cell(clause, target) for target in self.targets)
            lines.append(f"| **{clause}** {title} | {cells} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in self._notes())]) + "\n"

    def as_json(self) -> str:
        table = {
            clause: {"title": title, **{target: self.cell(clause, target) for target in self.targets}}
            for clause, title in self.clauses
        }
        return json.dumps({"table": table, "tests": [asdict(one) for one in self.results]}, indent=1) + "\n"
