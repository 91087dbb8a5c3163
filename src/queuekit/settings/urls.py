"""URLs: which ones can be used, and how one is shown without its secrets."""

from __future__ import annotations

import re

REDIS = ("redis", "rediss", "unix")
AMQP = ("amqp", "amqps")

# Only a URL that can be read in exactly one way: a password with a bare "/", "?" or "@" in it makes the rest ambiguous.
_PLAIN_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^\s:/?#@]*)(?P<password>:[^\s/?#@]*)?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?P<port>:[0-9]+)?"
    r"(?P<path>/[^\s?#@]*)?(?P<query>\?[^\s#@]*)?"
)

_FOREIGN = {
    "sqs": "Amazon SQS",
    "kafka": "Kafka",
    "confluentkafka": "Kafka",
    "sentinel": "Redis Sentinel",
    "mongodb": "MongoDB",
    "memory": "Kombu's in-memory transport",
    "filesystem": "Kombu's filesystem transport",
    "sqlalchemy": "a database as the broker",
    "sqla": "a database as the broker",
    "gcpubsub": "Google Pub/Sub",
    "azureservicebus": "Azure Service Bus",
    "azurestoragequeues": "Azure Storage Queues",
    "zookeeper": "ZooKeeper",
    "consul": "Consul",
    "etcd": "etcd",
    "nats": "NATS",
    "postgres": "PostgreSQL",
    "postgresql": "PostgreSQL",
    "http": "HTTP",
    "https": "HTTP",
}
_SPELLINGS = {
    "valkey": "redis://",
    "valkeys": "rediss://",
    "redis+socket": "unix://",
    "valkey+socket": "unix://",
    "pyamqp": "amqp://",
    "rabbitmq": "amqp://",
}


def redact(url: str) -> str:
    """The URL without its secrets: no password, no lone user name (it may be a token), no query.

    A URL that can be read in more than one way (a password with a bare "/" or "@" in it) is shown as its scheme alone,
    and a text that is no URL as "***".
    """
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
        return f"{scheme[1]}://***" if scheme else "***"
    part = match.groupdict(default="")
    login = ""
    if part["password"]:
        login = f"{part['user']}:***@"
    elif part["user"]:
        login = "***@"
    query = "?***" if part["query"] else ""
    return f"{part['scheme']}://{login}{part['host']}{part['port']}{part['path']}{query}"


def show(name: str, value: object) -> str:
    """A setting's value as an error shows it: with no password, even where a URL has strayed into another setting."""
    if name.endswith("_url") and isinstance(value, str):
        return repr(redact(value))
    text = repr(value)
    if "://" not in text and "@" not in text:
        return text if len(text) <= 80 else text[:77] + "..."
    return repr(redact(value)) if isinstance(value, str) else f"<{type(value).__name__}>"


def remedy(url: str, schemes: tuple[str, ...]) -> str | None:
    """What to give in place of a URL that cannot be used; None for one that can."""
    wanted = ", ".join(f"{scheme}://" for scheme in schemes)
    scheme, separator, _ = url.partition("://")
    if not separator:
        return f"give a URL: {wanted}"
    if scheme in _SPELLINGS:
        return f"write {_SPELLINGS[scheme]} in place of {scheme}://"
    if scheme not in schemes:
        known = _FOREIGN.get(scheme.lower().partition("+")[0])
        named = f"{known} ({scheme}://)" if known else f"the scheme {scheme}://"
        return f"{named} is not supported; give {wanted}"
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        return (
            "it cannot be read as one URL; percent-encode '@', ':', '/', '?' and '#' in a user name or password "
            "(urllib.parse.quote(password, safe=''))"
        )
    if match["port"] and not 0 < int(match["port"][1:]) < 65536:
        return "the port must be between 1 and 65535"
    return None
