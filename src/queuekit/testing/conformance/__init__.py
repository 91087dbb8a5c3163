"""The contract of queuekit, clause by clause, as tests for every backend.

For the author of an adapter: install it, and run

    pytest --pyargs queuekit.testing.conformance --queuekit-backend=mine

A clause that cannot hold is declared in the adapter's `capabilities.gaps` with its reason; it is then skipped, and
stands in the table at the end as a gap. What tests share is in fixtures.py; the tasks are queuekit.testing.tasks.
"""
