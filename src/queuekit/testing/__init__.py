"""For tests of programs that use queuekit, and of plugins for it.

plugin          the pytest plugin: queuekit_memory, queuekit_broker
conformance/    the contract as tests for every backend: pytest --pyargs queuekit.testing.conformance
tasks           the tasks that the suite runs; late: one that its workers do not know at first
target          what it runs on: a backend with one of its pools
bench           an App, its workers, and what is seen of both; process: such a worker; journal: what its jobs did
raw/            foreign messages for each engine's queues
report          the table at the end
servers         Redis and Valkey servers of a test's own
"""
