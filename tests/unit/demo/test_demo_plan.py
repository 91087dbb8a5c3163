"""Which call fails is decided beforehand, and alike for every engine."""

from __future__ import annotations

import pytest

from queuekit.demo.plan import DECK, Plan
from queuekit.retry import Category

IDS = [f"document-{n}" for n in range(12)]


def whole(plan: Plan, ids: list[str]) -> dict[str, tuple]:
    return {id: plan.failures(id) for id in ids}


def test_the_same_seed_and_documents_give_the_same_plan_in_whatever_order_they_come() -> None:
    assert whole(Plan(3, IDS), IDS) == whole(Plan(3, IDS[::-1]), IDS)


def test_another_seed_gives_another_plan() -> None:
    assert len({str(whole(Plan(seed, IDS), IDS)) for seed in range(5)}) == 5


@pytest.mark.parametrize("seed", range(5))
def test_a_dozen_documents_meet_every_kind_of_failure_and_one_is_refused(seed: int) -> None:
    plan = Plan(seed, IDS)
    met = [failure.category for id in IDS for failure in plan.failures(id)]
    assert set(met) == {
        Category.rate_limit, Category.overloaded, Category.server, Category.timeout, Category.auth
    }  # fmt: skip
    assert sum(plan.dead(id) for id in IDS) == 1


def test_many_documents_still_give_one_dead_letter() -> None:
    ids = [f"document-{n}" for n in range(3 * len(DECK))]
    plan = Plan(1, ids)
    assert sum(plan.dead(id) for id in ids) == 1


def test_calls_after_the_failures_succeed_and_a_refused_key_stays_refused() -> None:
    plan = Plan(1, IDS)
    for id in IDS:
        failures = plan.failures(id)
        assert [plan.failure(id, call) for call in range(1, len(failures) + 1)] == list(failures)
        assert (plan.failure(id, len(failures) + 1) is None) is not plan.dead(id)


def test_an_unknown_document_meets_no_failure() -> None:
    assert Plan(1, IDS).failure("another", 1) is None
