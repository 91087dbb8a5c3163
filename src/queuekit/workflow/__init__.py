"""Workflows: calls that wait for others, and take their results.

    chain(fetch.bind(url), summarise, publish).enqueue()          one after the other
    group([fetch.bind(url) for url in urls]).enqueue()            beside each other
    chord([fetch.bind(url) for url in urls], digest).enqueue()    beside each other, and then one that gets all results

    flow = Workflow()                                             any graph without a circle
    text = flow.add(fetch.bind(url))
    facts = flow.add(extract.bind(text.result))
    flow.add(report.bind(text.result, facts.result))
    flow.enqueue()

Every step is a job of its own, with its task's policy, limits and queue. All of them are recorded before the first one
starts; what follows a step is queued by the same step of the store that records how that one ended.
"""

from queuekit.workflow.graph import Flow, Group, Node, Part, Step, Workflow, chain, chord, group
from queuekit.workflow.handles import GroupJob, WorkflowJob

__all__ = ["Flow", "Group", "GroupJob", "Node", "Part", "Step", "Workflow", "WorkflowJob", "chain", "chord", "group"]
