"""What kind of failure an error is, whichever SDK raised it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Category"]


class Category(StrEnum):
    """The kind of a failure. Rules name one as "category:rate_limit"."""

    rate_limit = "rate_limit"
    """Too many requests or tokens for now: it passes by waiting."""
    quota = "quota"
    """Nothing left to spend, or a daily allowance used up: waiting minutes does not help."""
    overloaded = "overloaded"
    """The service is too busy for everybody (503, 529)."""
    server = "server"
    """The service failed (other 5xx). The rule "category:server" takes overloaded too, where no earlier rule does."""
    timeout = "timeout"
    """One request took too long; compare time_limit."""
    connection = "connection"
    """No answer: the connection failed or broke."""
    auth = "auth"
    """Who is asking is unknown, or may not."""
    bad_request = "bad_request"
    """The request is wrong and stays wrong."""
    context_length = "context_length"
    """The prompt or the answer does not fit into the model's context."""
    content_filter = "content_filter"
    """Refused by a content policy."""
    not_found = "not_found"
    """No such model, deployment or resource."""
    conflict = "conflict"
    """Another request is in the way (409)."""
    bad_output = "bad_output"
    """The model answered, but not in the form that was asked for."""
    time_limit = "time_limit"
    """The job's own `timeout` or `soft_timeout` has passed."""
    lost = "lost"
    """The attempt's worker died, or stopped answering."""
    unknown = "unknown"
    """None of these: a bug, most often."""
