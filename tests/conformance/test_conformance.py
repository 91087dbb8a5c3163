"""The shipped suite, run on every backend. The clauses are in queuekit.testing.conformance."""

from __future__ import annotations

from queuekit.testing.conformance.test_c01_one_module import *  # noqa: F403
from queuekit.testing.conformance.test_c02_attempts import *  # noqa: F403
from queuekit.testing.conformance.test_c02_crash_loops import *  # noqa: F403
from queuekit.testing.conformance.test_c03_delays import *  # noqa: F403
from queuekit.testing.conformance.test_c04_fence import *  # noqa: F403
from queuekit.testing.conformance.test_c05_lost_workers import *  # noqa: F403
from queuekit.testing.conformance.test_c06_nothing_is_lost import *  # noqa: F403
from queuekit.testing.conformance.test_c07_enqueue import *  # noqa: F403
from queuekit.testing.conformance.test_c08_limits import *  # noqa: F403
from queuekit.testing.conformance.test_c09_results import *  # noqa: F403
from queuekit.testing.conformance.test_c10_dead_letters import *  # noqa: F403
from queuekit.testing.conformance.test_c11_cancel import *  # noqa: F403
from queuekit.testing.conformance.test_c12_stop import *  # noqa: F403
from queuekit.testing.conformance.test_c13_foreign_messages import *  # noqa: F403
from queuekit.testing.conformance.test_c14_json import *  # noqa: F403
from queuekit.testing.conformance.test_c15_loop import *  # noqa: F403
from queuekit.testing.conformance.test_c16_steps import *  # noqa: F403
from queuekit.testing.conformance.test_c17_workflows import *  # noqa: F403
from queuekit.testing.conformance.test_c18_unique import *  # noqa: F403
from queuekit.testing.conformance.test_c19_schedules import *  # noqa: F403
from queuekit.testing.conformance.test_c20_caps import *  # noqa: F403
