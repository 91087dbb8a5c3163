from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from queuekit import Call, ConfigError, RetryPolicy, agent_task
from queuekit.task import find_task, registered_tasks


@agent_task
def plain(a: int) -> int:
    """What it does."""
    return a


@agent_task(name="unit.renamed", aliases=["unit.old"], queue="q.1", priority=5, timeout=timedelta(seconds=9))
async def given(a: int) -> int:
    return a


def test_a_task_has_the_name_of_its_module_and_function() -> None:
    assert plain.name == f"{__name__}.plain"
    assert plain.__doc__ == "What it does."
    assert find_task(plain.name) is plain
    assert plain in registered_tasks()


def test_a_given_name_and_its_aliases_find_the_task() -> None:
    assert given.name == "unit.renamed"
    assert find_task("unit.old") is given
    assert [task for task in registered_tasks() if task is given] == [given]
    assert given.is_async
    assert (given.timeout, given.priority, given.queue) == (9.0, 5, "q.1")


def test_two_tasks_of_one_name_are_refused_and_the_other_one_is_named() -> None:
    with pytest.raises(ConfigError, match=r"two tasks of the name 'unit\.renamed'.*test_task\.py:\d+"):

        @agent_task(name="unit.renamed")
        def other() -> None: ...


def test_an_alias_that_is_taken_is_refused_and_nothing_is_registered() -> None:
    with pytest.raises(ConfigError, match=r"unit\.old"):

        @agent_task(name="unit.fresh", aliases=["unit.old"])
        def other() -> None: ...

    assert find_task("unit.fresh") is None


def test_what_a_worker_could_not_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="lambda"):
        agent_task(lambda: None)
    with pytest.raises(ConfigError, match="inside a function"):

        @agent_task
        def nested() -> None: ...


def test_a_method_is_refused() -> None:
    namespace: dict[str, Any] = {"agent_task": agent_task, "__name__": __name__}
    with pytest.raises(ConfigError, match="method"):
        exec("class A:\n    @agent_task\n    def m(self): ...\n", namespace)


def test_with_a_name_they_are_taken() -> None:
    assert agent_task(name="unit.lambda")(lambda: 3)() == 3


@pytest.mark.parametrize("thing", [3, int, "name", print])
def test_only_functions_are_tasks(thing: Any) -> None:
    with pytest.raises(ConfigError, match="takes a function"):
        agent_task(thing)


def test_a_generator_is_refused() -> None:
    with pytest.raises(ConfigError, match="generator"):

        @agent_task(name="unit.generator")
        def produces() -> Any:
            yield 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1}, "more than 0"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": True}, "timeout=True"),
        ({"timeout": 5, "soft_timeout": 5}, "soft_timeout"),
        ({"queue": "a b"}, "queue='a b'"),
        ({"queue": ""}, "queue"),
        ({"queue": "a:b"}, "queue"),
        ({"priority": 10}, "priority=10"),
        ({"priority": 1.5}, "priority"),
        ({"retry": 5}, "RetryPolicy"),
        ({"name": "two words"}, "name"),
        ({"aliases": "one"}, "aliases"),
        ({"result_ttl": -1}, "result_ttl"),
    ],
)
def test_a_bad_value_is_refused_at_declaration(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        agent_task(**{"name": "unit.bad", **options})(lambda: None)
    assert find_task("unit.bad") is None


def test_the_module_of_a_task_is_the_one_that_another_process_imports(tmp_path: Path) -> None:
    text = "from queuekit import agent_task\n@agent_task(name='x')\ndef f(): ...\nprint(f.module)\n"
    (tmp_path / "jobs.py").write_text(text)
    for command in (["jobs.py"], ["-m", "jobs"], ["-c", "import jobs"]):
        said = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout == "jobs\n"


def test_options_make_a_copy() -> None:
    copy = plain.options(id="a", delay=3, priority=9)
    assert (copy.request.id, copy.request.delay, copy.request.priority) == ("a", 3.0, 9)
    assert plain.request.id is None
    assert copy.options(delay=4).request.priority == 9
    assert copy.name == plain.name
    assert copy(2) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "a b"}, "id='a b'"),
        ({"id": "x" * 129}, "id="),
        ({"delay": 1, "at": datetime.now(UTC)}, "delay and at"),
        ({"at": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001  # that is the point
        ({"delay": -1}, "delay=-1"),
        ({"key": ""}, "key=''"),
        ({"key": "k" * 201}, "1 to 200"),
        ({"key": "a\nb"}, "printable"),
        ({"key": 17}, "key=17"),
        ({"on_duplicate": "reject"}, "Give key="),
        ({"key_ttl": 5}, "Give key="),
        ({"key": "k", "key_ttl": 0}, "key_ttl=0"),
        ({"key": "k", "on_duplicate": "newest"}, "existing, reject, replace, debounce"),
        ({"key": "k", "on_duplicate": "debounce"}, "delay= or at="),
        ({"timeout": 3, "soft_timeout": 4}, "soft_timeout"),
        ({"expires": 0}, "expires"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plain.options(**options)


def test_bind_makes_a_value() -> None:
    assert plain.bind(3) == Call(plain, (3,))


def test_a_policy_is_kept_as_given() -> None:
    policy = RetryPolicy.for_llm()
    assert agent_task(name="unit.policy", retry=policy)(lambda: None).retry is policy


# ---- scripts -------------------------------------------------------------------------------------------------------

SCRIPT = """
from queuekit import agent_task, configure
@agent_task
def hello() -> str:
    return "hello"
if __name__ == "__main__":
    configure(backend="memory")
    print(hello.name, hello.enqueue().result())
"""


def test_a_task_in_a_script_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "x.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("x.hello hello\n", "")
    done = subprocess.run([sys.executable, "-m", "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("x.hello hello\n", "")


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_what_no_worker_can_import_is_refused_at_enqueue(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", SCRIPT] if how == "-c" else [sys.executable, "-"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, input=None if how == "-c" else SCRIPT
    )
    assert done.returncode == 1
    assert "ConfigError: task '__main__.hello'" in done.stderr
    assert "queuekit worker x.py" in done.stderr


def test_a_script_that_is_also_imported_declares_its_tasks_once(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(SCRIPT + "    import x\n    print(x.hello.name)\n")
    done = subprocess.run([sys.executable, "x.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("x.hello hello\nx.hello\n", "")


HEAVY = ("celery", "kombu", "rq", "dramatiq", "redis", "pydantic", "pydantic_settings", "rich", "click", "openai")


def test_import_queuekit_imports_nothing_heavy() -> None:
    code = (
        "import sys, queuekit\n"
        "from queuekit import agent_task, RetryPolicy, Job, App, current_job, configure\n"
        "@agent_task(name='t', retry=RetryPolicy.for_llm())\n"
        "def f(a: int) -> int: return a\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_task_in_a_spawned_process_has_the_name_of_its_file(tmp_path: Path) -> None:
    """multiprocessing imports the script anew there, as __mp_main__."""
    (tmp_path / "spawns.py").write_text(
        "import multiprocessing\n"
        "from queuekit import agent_task\n"
        "@agent_task\ndef hello() -> str: return 'hello'\n"
        "def child() -> None:\n    hello.check_importable()\n    print(hello.name)\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
        "    process.start()\n    process.join()\n"
    )
    for args in (["spawns.py"], ["-m", "spawns"]):
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout == "spawns.hello\n"


def test_a_module_that_was_edited_may_be_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    path = tmp_path / "edited_tasks.py"
    text = "from queuekit import agent_task\n@agent_task\ndef hello() -> int: return {}\n"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path.write_text(text.format(1))
    module = importlib.import_module("edited_tasks")
    path.write_text("\n\n" + text.format(2))
    importlib.reload(module)
    found = find_task("edited_tasks.hello")
    assert found is not None
    assert found() == 2
    path.write_text(text.format(1) + "@agent_task\ndef hello() -> int: return 3\n")
    with pytest.raises(ConfigError, match="two tasks of the name"):  # twice in one text is still once too often
        importlib.reload(module)


@pytest.mark.parametrize("name", ["timeout", "soft_timeout", "result_ttl"])
def test_a_duration_that_no_clock_can_add_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*31 years"):
        agent_task(name="unit.long", **{name: 1e10})(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=f"{name}.*31 years"):
        plain.options(**{name: 1e10})


def test_a_moment_that_no_clock_can_show_is_refused() -> None:
    with pytest.raises(ConfigError, match="31 years"):
        plain.options(delay=1e300)
    for year in (1, 9999):
        with pytest.raises(ConfigError, match="years"):
            plain.options(at=datetime(year, 1, 1, tzinfo=timezone(timedelta(hours=-12))))
