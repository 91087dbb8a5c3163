from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from queuekit import Job, JobFailed, JobNotFound, JobNotReady
from queuekit.testing import tasks

if TYPE_CHECKING:
    from queuekit.testing.bench import Bench

PARCEL = tasks.Parcel(label="a ☃ parcel", price=Decimal("0.10"), sent=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))


class TestC9:
    """Results are typed and expire; an unknown job is JobNotFound, and not pending."""

    clause = "C9"

    def test_values_come_out_as_the_types_they_went_in_as(self, bench: Bench) -> None:
        moment = datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2)))
        job = tasks.stamp.enqueue(PARCEL, raise_by=Decimal("0.20"), at=moment)
        result = job.result(timeout=20)
        assert type(result) is tasks.Parcel
        assert (result.price, type(result.price)) == (Decimal("0.30"), Decimal)
        assert (result.sent, result.sent.utcoffset()) == (moment, timedelta(hours=2))
        assert result.label == PARCEL.label

    def test_from_a_handle_of_another_process(self, bench: Bench) -> None:
        job = tasks.price.enqueue(PARCEL)
        bench.ended(job)
        assert tasks.price.job(job.id).result(timeout=0) == Decimal("0.10")
        assert Job.fetch(job.id).result(timeout=0) == Decimal("0.10")

    def test_not_ready(self, bench: Bench) -> None:
        job = tasks.add.options(delay=60).enqueue(1)
        if bench.target.real:  # where nobody else runs it, waiting runs it
            with pytest.raises(JobNotReady):
                job.result(timeout=0)
            with pytest.raises(TimeoutError):
                job.result(timeout=0.05)
        assert job.cancel()

    def test_a_result_expires_and_says_so(self, bench: Bench) -> None:
        job = tasks.add.options(result_ttl=1).enqueue(1)
        assert bench.ended(job).status == "succeeded"
        if not bench.target.real:
            bench.app.advance(1.1)

        def expired() -> bool:
            try:
                job.result(timeout=0)
            except JobNotFound as error:
                assert "expired" in str(error)
                return True
            return False

        bench.until(expired, "the result has expired", within=5)
        assert job.status() == "succeeded"

    def test_a_result_that_is_not_kept(self, bench: Bench) -> None:
        job = tasks.thrown_away.enqueue()
        assert job.result(timeout=20) is None
        assert bench.app.store.result(job.id) is None

    def test_a_result_that_cannot_be_encoded_fails_the_job(self, bench: Bench) -> None:
        job = tasks.unspeakable.enqueue()
        with pytest.raises(JobFailed, match="object"):
            job.result(timeout=20)
        assert len(job.info().attempts) == 1

    def test_an_unknown_job(self, bench: Bench) -> None:
        job = tasks.add.job("nobody-enqueued-this")
        for ask in (job.status, job.info, job.cancel, lambda: job.result(timeout=0), lambda: Job.fetch(job.id)):
            with pytest.raises(JobNotFound, match="nobody-enqueued-this"):
                ask()
