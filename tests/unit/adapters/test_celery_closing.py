"""What kombu hands over while a worker closes its connection."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed: pip install 'queuekit[celery]'")

from queuekit.adapters.celery.transport import Transport


@pytest.mark.parametrize("channels", [[], None])
def test_a_message_that_comes_after_the_channel_was_closed_is_no_invalid_one(
    monkeypatch: pytest.MonkeyPatch, channels: Any
) -> None:
    """The record rings again: nothing is lost by it, and nothing is wrong with it."""
    put_aside: list[Any] = []
    transport = object.__new__(Transport)
    transport.channels = channels
    monkeypatch.setattr(Transport, "put_aside", lambda self, *said: put_aside.append(said))
    transport._deliver({"headers": {}, "properties": {}}, "queuekit.default.q")
    assert put_aside == []


def test_an_envelope_that_cannot_be_read_goes_to_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    put_aside: list[Any] = []
    transport = object.__new__(Transport)

    class Channel:
        @staticmethod
        def Message(payload: Any, channel: Any) -> Any:  # noqa: N802  # kombu's name
            raise KeyError("properties")

    transport.channels = [Channel()]
    monkeypatch.setattr(Transport, "put_aside", lambda self, *said: put_aside.append(said))
    transport._deliver({"headers": {}}, "queuekit.default.q")
    assert len(put_aside) == 1
