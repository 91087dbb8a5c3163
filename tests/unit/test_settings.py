"""Settings: where a value may come from, who wins, and what an error says."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import string
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from queuekit.errors import ConfigError
from queuekit.settings import Settings, backends, installed_backends, load, redact, require_backend

NAMES = [field.name for field in dataclasses.fields(Settings)]
# Two good values for each setting, neither of them its default, as a person would write them in code.
EXAMPLES: dict[str, tuple[Any, Any]] = {
    "backend": ("rq", "celery"),
    "broker_url": ("redis://:pw@one:6379/0", "amqp://u:pw@two//"),
    "store_url": ("redis://one:6379/1", "unix:///run/two.sock"),
    "namespace": ("one", "two_2-x"),
    "lease": (1.5, 60.0),
    "grace": (0.0, 60.0),
    "enqueue_timeout": (1.5, 60.0),
    "strict": (True, True),
    "seed": ("one", "two"),
    "payload_limit": (1, 5000),
    "result_ttl": (0.0, 60.0),
    "retention": (1.5, 60.0),
    "dead_letter_ttl": (1.5, 60.0),
    "tick": (0.1, 1.0),
    "store_lost": ("adopt", "adopt"),
    "unknown_grace": (1.5, 60.0),
    "retry": ({"slow": {"max_attempts": 2}}, {"slow": {"max_attempts": 9}}),
    "schedules": ({"nightly": {"task": "a.b", "every": 5}}, {"nightly": {"task": "a.b", "every": 9}}),
    "concurrency": (1, 8),
    "queues": (("a", "b"), ("c",)),
    "modules": (("one.two", "three"), ("four",)),
    "adopt": (True, True),
    "celery_result": (True, True),
    "amqp_queues": ("quorum", "quorum"),
    "quarantine_limit": (1, 5000),
    "quarantine_bytes": (1000, 5000),
    "steps_limit": (1000, 5000),
    "blobs": ("one.two:three", "four:Five.six"),
    "blob_over": (1000, 5000),
    "pool": ("threads", "solo"),
    "hooks": (("one.two:three", "four:Five.six"), ("a:b",)),
    "codec": ("one.two:three", "four:Five.six"),
    "signing_key": (("0123456789abcdef", "fedcba9876543210"), ("another key".replace(" ", "-") + "-0123",)),
    "unsigned": ("accept", "accept"),
    "log_format": ("json", "json"),
    "metrics_port": (1, 65535),
    "metrics_host": ("0.0.0.0", "::1"),
    "queue_concurrency": ({"documents": 5, "a.b": 1}, {"other": 2}),
    "task_concurrency": ({"pkg.tasks.slow": 5}, {"slow": 2}),
}


def build(**values: Any) -> Settings:
    """Settings whose names and values no type checker would let through."""
    return Settings(**values)


def as_variable(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)


def as_toml(name: str, value: Any, table: str = "") -> str:
    if name == "retry":
        head = f"{table}.retry" if table else "retry"
        return "".join(f"[{head}.{key}]\nmax_attempts = {policy['max_attempts']}\n" for key, policy in value.items())
    if name == "schedules":
        head = f"{table}.schedules" if table else "schedules"
        rows = {key: [f"{field} = {json.dumps(one)}\n" for field, one in said.items()] for key, said in value.items()}
        return "".join(f"[{head}.{key}]\n{''.join(lines)}" for key, lines in rows.items())
    if name.endswith("_concurrency"):
        lines = "".join(f"{json.dumps(key)} = {cap}\n" for key, cap in value.items())
        return f"[{table}.{name}]\n{lines}" if table else f"[{name}]\n{lines}"
    if isinstance(value, tuple):
        text = json.dumps(list(value))
    else:
        text = str(value).lower() if isinstance(value, bool) else json.dumps(value)
    return (f"[{table}]\n" if table else "") + f"{name} = {text}\n"


def placed(folder: Path, place: str, name: str, value: Any, into: dict[str, Any]) -> None:
    """Write a setting where `place` says; `into` collects the arguments of load()."""
    if place == "cli":
        into["cli"] = {name: value}
    elif place == "configure":
        into["explicit"] = {name: value}
    elif place == "environment":
        into["environ"] = {f"QUEUEKIT_{name.upper()}": as_variable(value)}
    elif place == "queuekit.toml":
        (folder / "queuekit.toml").write_text(as_toml(name, value))
    else:
        (folder / "pyproject.toml").write_text(as_toml(name, value, "tool.queuekit"))


PLACES = ["cli", "configure", "environment", "queuekit.toml", "pyproject.toml"]


def says(place: str, name: str, folder: Path) -> str:
    return {
        "cli": f"command line --{name.replace('_', '-')}",
        "configure": "configure()",
        "environment": f"environment QUEUEKIT_{name.upper()}",
        "queuekit.toml": str(folder / "queuekit.toml"),
        "pyproject.toml": f"{folder / 'pyproject.toml'} [tool.queuekit]",
    }[place]


class TestWhereValuesComeFrom:
    def test_the_examples_cover_every_setting(self) -> None:
        assert set(EXAMPLES) == set(NAMES)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("place", PLACES)
    def test_a_setting_can_be_given_in_every_place(self, tmp_path: Path, place: str, name: str) -> None:
        arguments: dict[str, Any] = {"environ": {}}
        placed(tmp_path, place, name, EXAMPLES[name][0], arguments)
        settings = load(**arguments, cwd=tmp_path)
        assert getattr(settings, name) == EXAMPLES[name][0]
        assert settings.source(name) == says(place, name, tmp_path)
        assert all(settings.source(other) == "default" for other in NAMES if other != name)

    @pytest.mark.parametrize(("higher", "lower"), list(itertools.combinations(PLACES, 2)))
    @pytest.mark.parametrize("name", ["backend", "broker_url", "lease", "queues", "retry"])
    def test_the_higher_place_wins(self, tmp_path: Path, higher: str, lower: str, name: str) -> None:
        arguments: dict[str, Any] = {"environ": {}}
        high, low = EXAMPLES[name]
        placed(tmp_path, higher, name, high, arguments)
        placed(tmp_path, lower, name, low, arguments)
        settings = load(**arguments, cwd=tmp_path)
        assert getattr(settings, name) == high
        assert settings.source(name) == says(higher, name, tmp_path)

    @given(st.dictionaries(st.sampled_from(PLACES[:3]), st.floats(0.001, 1e6), min_size=1))
    @hypothesis_settings(max_examples=100)
    def test_the_highest_of_any_set_of_places_wins(self, given_in: dict[str, float]) -> None:
        arguments: dict[str, Any] = {"environ": {}}
        for place, value in given_in.items():
            placed(Path(), place, "lease", value, arguments)
        settings = load(**arguments, cwd="/")
        assert settings.lease == given_in[min(given_in, key=PLACES.index)]

    def test_nothing_given_is_the_defaults(self, tmp_path: Path) -> None:
        settings = load(cwd=tmp_path, environ={})
        assert settings == Settings()
        assert (settings.backend, settings.broker_url, settings.store_url) == (None, None, None)
        assert (settings.lease, settings.grace, settings.enqueue_timeout, settings.tick) == (30.0, 30.0, 5.0, 0.5)
        assert (settings.result_ttl, settings.retention, settings.dead_letter_ttl) == (86400.0, 604800.0, 2592000.0)
        assert (settings.payload_limit, settings.strict, settings.store_lost) == (1048576, False, "quarantine")

    def test_an_option_that_was_not_given_is_not_a_value(self, tmp_path: Path) -> None:
        settings = load({"backend": None, "queues": ()}, environ={"QUEUEKIT_BACKEND": "rq"}, cwd=tmp_path)
        assert settings.backend == "rq"

    def test_configure_can_unset(self, tmp_path: Path) -> None:
        environ = {"QUEUEKIT_BROKER_URL": "redis://one"}
        assert load(explicit={"broker_url": None}, environ=environ, cwd=tmp_path).broker_url is None

    def test_an_empty_variable_is_not_set(self, tmp_path: Path) -> None:
        assert load(environ={"QUEUEKIT_BACKEND": "", "QUEUEKIT_LEASE": ""}, cwd=tmp_path) == Settings()

    def test_policies_of_different_names_add_up(self, tmp_path: Path) -> None:
        (tmp_path / "queuekit.toml").write_text(
            "[retry.file]\nmax_attempts = 2\n[retry.both]\nmax_attempts = 2\nrules = []\n"
        )
        settings = load(explicit={"retry": {"both": {"max_attempts": 7}}}, environ={}, cwd=tmp_path)
        assert settings.retry == {"file": {"max_attempts": 2}, "both": {"max_attempts": 7}}
        assert settings.source("retry.file") == str(tmp_path / "queuekit.toml")
        assert settings.source("retry.both") == "configure()"


class TestFiles:
    def test_the_nearest_folder_up_to_the_root_is_read(self, tmp_path: Path) -> None:
        (tmp_path / ".git").mkdir()
        (tmp_path / "queuekit.toml").write_text("lease = 7\n")
        inner = tmp_path / "a" / "b"
        inner.mkdir(parents=True)
        (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        assert load(environ={}, cwd=inner).lease == 7
        (tmp_path / "a" / "pyproject.toml").write_text("[tool.queuekit]\nlease = 8\n")
        assert load(environ={}, cwd=inner).lease == 8

    def test_nothing_is_read_from_above_the_root(self, tmp_path: Path) -> None:
        (tmp_path / "queuekit.toml").write_text("lease = 7\n")
        for name, marker in (("a", ".git"), ("b", "pyproject.toml"), ("c", "")):
            project = tmp_path / name
            project.mkdir()
            if marker:
                (project / marker).touch()
            assert load(environ={}, cwd=project).lease == 30

    def test_both_files_of_a_folder_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "queuekit.toml").write_text("lease = 7\n")
        (tmp_path / "pyproject.toml").write_text("[tool.queuekit]\nlease = 8\ngrace = 9\n")
        settings = load(environ={}, cwd=tmp_path)
        assert (settings.lease, settings.grace) == (7, 9)

    def test_a_file_that_is_not_toml_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "queuekit.toml").write_text("lease 7")
        with pytest.raises(ConfigError, match=r"queuekit\.toml cannot be read as TOML"):
            load(environ={}, cwd=tmp_path)

    def test_a_table_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool]\nqueuekit = 3\n")
        with pytest.raises(ConfigError, match=r"tool\.queuekit in .*pyproject\.toml is not a table"):
            load(environ={}, cwd=tmp_path)


class TestUnknownNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_slip_is_told_the_near_name(self, tmp_path: Path, name: str) -> None:
        slip = name[:-1] + name[-1] * 2
        with pytest.raises(ConfigError, match=rf"unknown setting {slip} in configure\(\): did you mean {name}\?"):
            load(explicit={slip: 1}, cwd=tmp_path, environ={})
        with pytest.raises(ConfigError, match=rf"unknown setting {slip} in Settings\(\): did you mean {name}\?"):
            build(**{slip: 1})
        variable = f"QUEUEKIT_{slip.upper()}"
        with pytest.raises(
            ConfigError, match=rf"{variable} in the environment: did you mean QUEUEKIT_{name.upper()}\?"
        ):
            load(environ={variable: "1"}, cwd=tmp_path)

    def test_in_a_file_the_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool.queuekit]\nbroker-url = 'redis://x'\n")
        with pytest.raises(
            ConfigError, match=r"unknown setting broker-url in .*pyproject\.toml .*: did you mean broker_url\?"
        ):
            load(environ={}, cwd=tmp_path)

    def test_a_name_that_is_near_to_nothing_gets_the_list(self) -> None:
        with pytest.raises(ConfigError, match="the settings are: backend, broker_url"):
            build(zzzzzz=1)

    def test_the_value_of_an_unknown_name_is_not_shown(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"QUEUEKIT_BROKER_URLL": "redis://:hunter2@x"}, cwd=tmp_path)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "variable",
        [
            "QUEUEKIT_TEST_REDIS",
            "QUEUEKIT_STEWARD_LOG",
            "QUEUEKIT_EMBEDDED_BINARY",
            "QUEUEKIT_SERVICE_HOST",
            "QUEUEKIT_WORKER_SERVICE_PORT_HTTP",
            "QUEUEKIT_PORT",
            "QUEUEKIT_PORT_6379_TCP_ADDR",
            "QUEUE",
            "queuekit_lease",
        ],
    )
    def test_variables_of_others_are_left_alone(self, tmp_path: Path, variable: str) -> None:
        assert load(environ={variable: "x"}, cwd=tmp_path) == Settings()

    def test_source_knows_the_names_too(self) -> None:
        with pytest.raises(ConfigError, match="did you mean lease"):
            Settings().source("leese")


class TestValues:
    @pytest.mark.parametrize("name", ["lease", "grace", "enqueue_timeout", "result_ttl", "retention", "tick"])
    def test_durations_are_seconds_or_timedelta(self, name: str) -> None:
        for value in (90, 90.0, "90", timedelta(minutes=1.5)):
            read = getattr(build(**{name: value}), name)
            assert (read, type(read)) == (90.0, float)

    @pytest.mark.parametrize(
        ("name", "value", "remedy"),
        [
            ("lease", 0, "more than 0 seconds"),
            ("lease", -1, "more than 0 seconds"),
            ("lease", True, "seconds as a number"),
            ("lease", float("nan"), "seconds as a number"),
            ("lease", "inf", "seconds as a number"),
            ("lease", 10**400, "seconds as a number"),
            ("lease", "soon", "seconds as a number"),
            ("lease", None, "seconds as a number"),
            ("grace", -0.1, "0 seconds or more"),
            ("grace", timedelta(seconds=-1), "0 seconds or more"),
            ("payload_limit", 0, "whole number from 1"),
            ("payload_limit", 1.5, "whole number from 1"),
            ("concurrency", "two", "whole number from 1"),
            ("concurrency", True, "whole number from 1"),
            ("namespace", "a b", "letters, digits"),
            ("namespace", "a\n", "letters, digits"),
            ("namespace", "ä", "letters, digits"),
            ("namespace", "{a}", "letters, digits"),
            ("namespace", "", "letters, digits"),
            ("strict", "maybe", "true or false"),
            ("strict", 1, "true or false"),
            ("seed", 1.5, "a text or a whole number"),
            ("store_lost", "keep", "'quarantine' or 'adopt'"),
            ("queues", "a,,b", "none of them empty"),
            ("queues", ["a b"], "without spaces"),
            ("queues", [1], "give names"),
            ("queues", 3, "give names"),
            ("pool", "", "not empty"),
            ("backend", 3, "not empty"),
            ("backend", "celary", "did you mean 'celery'"),
            ("backend", "Celery", "did you mean 'celery'"),
            ("retry", [], "table of policies by name"),
            ("retry", {"x": 3}, "policy 'x' is not a table"),
            ("retry", {"x": {"f": object()}}, "policy 'x' holds a value that JSON cannot"),
            ("retry", "{", "JSON object"),
            ("broker_url", "localhost:6379", "give a URL: redis://"),
            (
                "broker_url",
                "sqs://key:secret@",
                r"Amazon SQS \(sqs://\) is not supported \(a lost message .* keeps no order.*; give redis://",
            ),
            ("broker_url", "kafka://x", "Kafka"),
            ("broker_url", "memory://", "in-memory transport"),
            ("broker_url", "sqla+sqlite:///x.db", "a database as the broker"),
            ("broker_url", "gopher://x", "scheme gopher:// is not supported"),
            ("broker_url", "valkey://x", "write redis:// in place of valkey://"),
            ("broker_url", "redis+socket:///x", "write unix:// in place"),
            ("broker_url", "redis://x:0/0", "port must be between 1 and 65535"),
            ("broker_url", "redis://x:65536/0", "port must be between 1 and 65535"),
            ("broker_url", "redis://:a/b@x", "percent-encode"),
            ("store_url", "amqp://x", r"amqp:// is not supported; give redis://"),
            ("store_url", "postgresql://x", "PostgreSQL"),
        ],
    )
    def test_a_bad_value_is_told_what_to_give(self, name: str, value: Any, remedy: str) -> None:
        with pytest.raises(ConfigError, match=remedy) as caught:
            build(**{name: value})
        assert str(caught.value).startswith(f"{name}=")
        assert "Settings()" in str(caught.value)

    def test_the_error_says_where_the_value_stands(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"lease='soon' \(environment QUEUEKIT_LEASE\)"):
            load(environ={"QUEUEKIT_LEASE": "soon"}, cwd=tmp_path)
        with pytest.raises(ConfigError, match=r"concurrency='x' \(command line --concurrency\)"):
            load({"concurrency": "x"}, environ={}, cwd=tmp_path)

    def test_a_bad_value_that_is_outranked_is_still_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="QUEUEKIT_LEASE"):
            load(explicit={"lease": 3}, environ={"QUEUEKIT_LEASE": "soon"}, cwd=tmp_path)

    @pytest.mark.parametrize(
        ("word", "value"), [("1", True), ("YES", True), ("on", True), ("0", False), ("False", False)]
    )
    def test_flags_are_words_in_the_environment(self, tmp_path: Path, word: str, value: bool) -> None:
        assert load(environ={"QUEUEKIT_STRICT": word}, cwd=tmp_path).strict is value

    def test_queues_keep_their_order_and_are_named_once(self) -> None:
        assert Settings(queues="b, a,b").queues == ("b", "a")

    def test_it_is_frozen_comparable_and_hashable(self) -> None:
        settings = Settings(retry={"x": {}})
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.lease = 3  # type: ignore[misc]
        assert settings == Settings(retry={"x": {}})
        assert hash(settings) == hash(Settings(retry={"x": {}}))
        assert Settings(lease=3) != Settings()

    def test_a_table_is_a_copy(self) -> None:
        table = {"slow": {"max_attempts": 2}}
        settings = Settings(retry=table)
        table["slow"]["max_attempts"] = 9
        assert settings.retry == {"slow": {"max_attempts": 2}}


class TestCopies:
    @pytest.mark.parametrize("name", NAMES)
    def test_through_json(self, tmp_path: Path, name: str) -> None:
        settings = load(explicit={name: EXAMPLES[name][0]}, environ={"QUEUEKIT_GRACE": "9"}, cwd=tmp_path)
        copy = Settings.from_json(settings.to_json())
        assert copy == settings
        assert copy.source("retry.slow") == settings.source("retry.slow")
        assert [copy.source(each) for each in NAMES] == [settings.source(each) for each in NAMES]
        assert pickle.loads(pickle.dumps(settings)) == settings

    def test_replace_keeps_the_other_sources(self, tmp_path: Path) -> None:
        settings = load(environ={"QUEUEKIT_LEASE": "9", "QUEUEKIT_RETRY": '{"a": {}}'}, cwd=tmp_path)
        changed = settings.replace("the dev server in .queuekit", broker_url="redis://x", retry={"b": {}})
        assert (changed.broker_url, changed.lease, changed.retry) == ("redis://x", 9.0, {"b": {}})
        assert changed.source("broker_url") == "the dev server in .queuekit"
        assert changed.source("lease") == "environment QUEUEKIT_LEASE"
        assert dataclasses.replace(changed, lease=3).lease == 3
        with pytest.raises(ConfigError, match="did you mean lease"):
            settings.replace(leasse=3)


class TestPasswords:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://:pw@localhost:6379/0", "redis://:***@localhost:6379/0"),
            ("amqp://user:pw@host//vhost", "amqp://user:***@host//vhost"),
            ("redis://token@host", "redis://***@host"),
            ("redis://host/0?password=pw", "redis://host/0?***"),
            ("rediss://u:p%40w@[::1]:6380", "rediss://u:***@[::1]:6380"),
            ("redis://localhost", "redis://localhost"),
            ("unix:///run/valkey.sock", "unix:///run/valkey.sock"),
            ("redis://:a/b@host", "redis://***"),
            ("redis://u:1/b@host", "redis://***"),
            ("redis://:a@b@host", "redis://***"),
            ("redis://:a#b@host", "redis://***"),
            ("redis://:my word@host", "redis://***"),
            ("amqp://a:pw@one;amqp://b:pw@two", "amqp://***"),
            ("hunter2", "***"),
            ("", "***"),
        ],
    )
    def test_redact(self, url: str, shown: str) -> None:
        assert redact(url) == shown

    @given(
        scheme=st.sampled_from(["redis", "rediss", "amqp", "sqs", "x"]),
        user=st.text(st.sampled_from(string.ascii_letters), max_size=4),
        one=st.text(min_size=1),
        two=st.text(min_size=1),
        tail=st.sampled_from(["host", "host:6379/0", "[::1]:1/", "", "h/v?x=1"]),
    )
    @hypothesis_settings(max_examples=200)
    def test_what_is_shown_does_not_depend_on_the_password(
        self, scheme: str, user: str, one: str, two: str, tail: str
    ) -> None:
        encoded = {redact(f"{scheme}://{user}:{quote(password, safe='')}@{tail}") for password in (one, two)}
        assert len(encoded) == 1
        # Not encoded it may be impossible to tell where it ends: then nothing but the scheme is shown.
        assert redact(f"{scheme}://{user}:{one}@{tail}") in {*encoded, f"{scheme}://***"}

    @given(st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from(NAMES))
    @hypothesis_settings(max_examples=200)
    def test_no_error_and_no_repr_shows_a_password(self, password: str, name: str) -> None:
        secret = f"S3cret{password}S3cret"
        for value in (
            f"redis://u:{secret}@host/0",
            f"redis://u:{quote(secret, safe='')}@host/0",
            [f"redis://:{secret}@h"],
        ):
            try:
                shown = repr(build(**{name: value}))
            except ConfigError as error:
                shown = str(error)
                assert error.__cause__ is None
                assert error.__suppress_context__
            assert "S3cret" not in shown

    def test_checks_as_a_whole_redact_too(self) -> None:
        for settings in (
            Settings(backend="rq", broker_url="amqp://u:hunter2@host", store_url="redis://h"),
            Settings(backend="celery", broker_url="amqp://u:hunter2@host"),
        ):
            with pytest.raises(ConfigError) as caught:
                settings.resolve()
            assert "amqp://u:***@host" in str(caught.value)
            assert "hunter2" not in str(caught.value)


class TestAsAWhole:
    def test_the_store_is_the_brokers_redis(self) -> None:
        settings = Settings(backend="celery", broker_url="redis://one/3")
        assert settings.resolved_store_url == "redis://one/3"
        assert settings.resolve().store_url == "redis://one/3"
        assert Settings(broker_url="amqp://one", store_url="redis://two").resolved_store_url == "redis://two"

    def test_rabbitmq_needs_a_store(self, tmp_path: Path) -> None:
        settings = load(environ={"QUEUEKIT_BROKER_URL": "amqp://h", "QUEUEKIT_BACKEND": "celery"}, cwd=tmp_path)
        with pytest.raises(
            ConfigError, match=r"store_url is not set.*environment QUEUEKIT_BROKER_URL.*QUEUEKIT_STORE_URL"
        ):
            settings.resolve()

    @pytest.mark.parametrize("extra", [{}, {"store_url": "redis://h"}])
    def test_no_broker_has_two_remedies(self, extra: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=r"QUEUEKIT_BROKER_URL=.*queuekit worker --dev"):
            build(backend="rq", **extra).resolve()

    def test_rq_cannot_use_rabbitmq(self) -> None:
        with pytest.raises(ConfigError, match="RQ runs on Redis or Valkey only"):
            Settings(backend="rq", broker_url="amqp://h", store_url="redis://h").resolve()

    def test_memory_needs_nothing(self) -> None:
        settings = Settings(backend="memory")
        assert settings.resolve() == settings

    def test_an_unknown_policy_is_told_the_near_one(self) -> None:
        with pytest.raises(ConfigError, match=r"no policy of that name, did you mean 'slow'\?.*\[retry\.slwo\]"):
            Settings(retry={"slow": {}}).retry_policy("slwo")

    def test_a_policy_goes_through_the_settings_unchanged(self) -> None:
        from queuekit.retry import RetryPolicy

        policy = RetryPolicy(max_attempts=7)
        assert Settings(retry={"slow": policy}).retry_policy("slow") == policy

    def test_a_policy_that_cannot_be_read_says_where_it_stands(self, tmp_path: Path) -> None:
        (tmp_path / "queuekit.toml").write_text("backend = 'memory'\n[retry.slow]\nmax_attempts = -3\n")
        with pytest.raises(ConfigError, match=r"retry policy 'slow' \(.*queuekit\.toml\)"):
            load(environ={}, cwd=tmp_path).resolve()


class TestBackends:
    def with_installed(self, monkeypatch: pytest.MonkeyPatch, *engines: str) -> None:
        monkeypatch.setattr(backends, "_installed", lambda name: name == "memory" or name in engines)
        monkeypatch.setattr(backends, "_plugins", list)

    def test_none_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_installed(monkeypatch, "rq")
        with pytest.raises(ConfigError) as caught:
            require_backend(Settings())
        text = str(caught.value)
        assert "QUEUEKIT_BACKEND=NAME" in text
        assert "Installed: rq, memory; not installed: celery (pip install 'queuekit[celery]')" in text
        assert "dramatiq (pip install 'queuekit[dramatiq]')" in text

    def test_one_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_installed(monkeypatch)
        with pytest.raises(
            ConfigError, match=r"backend='rq' \(Settings\(\)\) is not installed: pip install 'queuekit\[rq\]'"
        ):
            require_backend(Settings(backend="rq"))

    def test_one_that_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_installed(monkeypatch, "celery")
        assert require_backend(Settings(backend="celery")) == "celery"
        assert require_backend(Settings(backend="memory")) == "memory"

    def test_an_adapter_of_another_package_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "_plugins", lambda: ["huey"])
        assert require_backend(Settings(backend="huey")) == "huey"
        assert installed_backends()["huey"] is True
        with pytest.raises(ConfigError, match="did you mean 'huey'"):
            Settings(backend="hueey")

    def test_a_mere_folder_is_not_an_engine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "rq").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "rq", raising=False)
        assert installed_backends()["rq"] is False


def test_importing_and_loading_stay_light() -> None:
    """No validation library, no engine and no client at import, nor when the settings are read."""
    heavy = ["pydantic", "pydantic_settings", "redis", "celery", "rq", "dramatiq", "click", "rich"]
    code = (
        "import sys; from queuekit.settings import load; heavy = set(sys.argv[1:]); before = heavy & set(sys.modules);"
        "load(environ={'QUEUEKIT_BACKEND': 'rq'}); print(before | heavy & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
