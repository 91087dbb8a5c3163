"""URLs: which ones can be used, and how one is shown without its secrets."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

REDIS = ("redis", "rediss", "unix", "sentinel")
CLUSTER = ("redis+cluster", "rediss+cluster")
AMQP = ("amqp", "amqps")

_MANY_HOSTS = ("sentinel", *CLUSTER)
# What a URL of Redis may say: all else, such as timeouts and retries, queuekit sets by itself.
_TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_QUERY = {
    "redis": ("db",),
    "rediss": ("db", *_TLS),
    "unix": ("db", "username", "password"),
    "sentinel": ("sentinel_username", "sentinel_password"),
    "redis+cluster": (),
    "rediss+cluster": _TLS,
}

# Only a URL that can be read in exactly one way: a password with a bare "/", "?" or "@" in it makes the rest ambiguous.
_PLAIN_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^\s:/?#@]*)(?P<password>:[^\s/?#@]*)?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?P<port>:[0-9]+)?"
    r"(?P<more>(?:,(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]+)?)*)"
    r"(?P<path>/[^\s?#@]*)?(?P<query>\?[^\s#@]*)?"
)

_FOREIGN = {
    "sqs": "Amazon SQS",
    "kafka": "Kafka",
    "confluentkafka": "Kafka",
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
_WHY_NOT = {
    "sqs": " (a lost message is found by the order of its queue and by how many wait there: a queue of SQS keeps no "
    "order and tells that number only roughly)",
}
_SPELLINGS = {
    "valkey": "redis://",
    "valkeys": "rediss://",
    "redis+socket": "unix://",
    "valkey+socket": "unix://",
    "pyamqp": "amqp://",
    "rabbitmq": "amqp://",
    "redis+sentinel": "sentinel://",
    "redis-sentinel": "sentinel://",
    "rediscluster": "redis+cluster://",
    "redis-cluster": "redis+cluster://",
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
    return f"{part['scheme']}://{login}{part['host']}{part['port']}{part['more']}{part['path']}{query}"


def show(name: str, value: object) -> str:
    """A setting's value as an error shows it: with no password, even where a URL has strayed into another setting."""
    if name == "signing_key":
        return "'***'"
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
    if scheme in CLUSTER and scheme not in schemes:
        return (
            "Celery, RQ and Dramatiq cannot keep their queues on a Redis Cluster: give a single Redis, sentinel:// or "
            "amqp:// here, and the cluster as store_url"
        )
    if scheme in _SPELLINGS:
        return f"write {_SPELLINGS[scheme]} in place of {scheme}://"
    if scheme not in schemes:
        known = _FOREIGN.get(scheme.lower().partition("+")[0])
        named = f"{known} ({scheme}://)" if known else f"the scheme {scheme}://"
        why = _WHY_NOT.get(scheme.lower(), "")
        return f"{named} is not supported{why}; give {wanted}"
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        return (
            "it cannot be read as one URL; percent-encode '@', ':', '/', '?' and '#' in a user name or password "
            "(urllib.parse.quote(password, safe=''))"
        )
    ports = re.findall(r":([0-9]+)(?=,|\Z)", (match["port"] or "") + match["more"])
    if any(not 0 < int(port) < 65536 for port in ports):
        return "the port must be between 1 and 65535"
    if match["more"] and scheme not in _MANY_HOSTS:
        return f"more than one host is for {', '.join(f'{one}://' for one in _MANY_HOSTS)}"
    if scheme == "sentinel" and not re.fullmatch(r"/[^/]+(/[0-9]*)?", match["path"] or ""):
        return "give the name of the service that the sentinels watch: sentinel://HOST:26379,HOST:26379/SERVICE/DB"
    return _query(scheme, match["query"] or "") if scheme in _QUERY else None


def _query(scheme: str, query: str) -> str | None:
    for name, value in parse_qsl(query[1:], keep_blank_values=True):
        if name.startswith("ssl") and scheme == "sentinel":
            return "TLS by Sentinel has not been run: take it out, or give rediss:// with the master's own address"
        if name in _TLS and name not in _QUERY[scheme]:
            secure = "rediss+cluster" if scheme in CLUSTER else "rediss"
            return f"{name} is for {secure}://: write that in place of {scheme}://"
        if name not in _QUERY[scheme]:
            known = ", ".join(_QUERY[scheme]) or "nothing"
            return f"{name} cannot be in its query, which may say {known}. Timeouts and retries are queuekit's own"
        if name == "ssl_cert_reqs" and value not in ("required", "optional", "none"):
            return "ssl_cert_reqs is required, optional or none"
    return None
