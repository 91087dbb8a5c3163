"""SDKs that ask again by themselves: with a task's own retries, each of its attempts is several requests, whose waits
fill a worker and whose errors no policy sees.

What is installed is known by its metadata; nothing of it is imported. Where the user's modules were imported their
source is read for the calls that make a client, or a request. The figures are those of openai 3.54, anthropic 2.12,
litellm 1.106, botocore 1.44 and google-genai 3.6, which asks once unless it is told otherwise.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from queuekit.adapters.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from queuekit.doctor import Patient

__all__ = ["SDKS", "Sdk", "check_sdks"]

WHY: Final = "a task with a retry policy asks so many times an attempt, and waits in the worker in between"


@dataclass(frozen=True, slots=True)
class Sdk:
    """A library that may ask again.

    Attributes:
        package: as it is installed.
        calls: what makes a client or a request of it, by qualified name.
        keyword: by which of its keywords that is told how often to ask again.
        said: how often it asks where it is not told; empty where it asks once.
        remedy: what to write.
    """

    package: str
    calls: frozenset[str]
    keyword: str
    said: str
    remedy: str


def _clients(module: str, *names: str) -> frozenset[str]:
    return frozenset(f"{module}.{kind}{name}" for kind in ("", "Async") for name in names)


SDKS: Final = (
    Sdk("openai", _clients("openai", "OpenAI", "AzureOpenAI"), "max_retries", "asks up to 3 times by itself",
        "OpenAI(max_retries=0), AsyncOpenAI(max_retries=0)"),
    Sdk("anthropic", _clients("anthropic", "Anthropic", "AnthropicBedrock", "AnthropicVertex"), "max_retries",
        "asks up to 3 times by itself", "Anthropic(max_retries=0), AsyncAnthropic(max_retries=0)"),
    Sdk("litellm", frozenset(f"litellm.{name}" for name in ("completion", "acompletion", "responses", "aresponses",
        "embedding", "aembedding")), "max_retries", "asks 3 times and more by itself",
        "litellm.completion(..., max_retries=0)"),
    Sdk("boto3", frozenset({"boto3.client", "boto3.session.Session.client"}), "config",
        "asks 3 to 5 times by itself",
        'boto3.client(..., config=Config(retries={"total_max_attempts": 1})), Config of botocore.config'),
    Sdk("google-genai", frozenset({"google.genai.types.HttpRetryOptions"}), "attempts", "",
        "leave retry_options out of HttpOptions"),
    Sdk("httpx", _clients("httpx", "HTTPTransport"), "retries", "", "HTTPTransport(retries=0), which is the default"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Call:
    sdk: Sdk
    name: str
    place: str
    retries: bool | None  # None: it cannot be told from the source


def check_sdks(patient: Patient) -> Iterator[Finding]:
    files = _files(patient.modules)
    calls = [call for file in files for call in _calls(file)]
    there = {sdk.package: version for sdk in SDKS if (version := _version(sdk.package)) is not None}
    for call in calls:
        if call.retries:
            found = f"{call.place}: {call.name}() {call.sdk.said or 'is told to ask again by itself'}"
            yield Finding("sdk-retries", Severity.warning, found, WHY, call.sdk.remedy)
    for sdk in SDKS:
        own = [call for call in calls if call.sdk is sdk]
        version = there.get(sdk.package)
        if version is None or not sdk.said or any(call.retries for call in own):
            continue
        if own and all(call.retries is False for call in own):
            yield Finding("sdk-retries", Severity.ok, f"{sdk.package} is told not to ask again, {_times(len(own))}")
            continue
        where = f"; what {own[0].place} tells it could not be read" if own else ""
        yield Finding(
            "sdk-retries",
            Severity.hint,
            f"{sdk.package} {version} is installed, and {sdk.said}{where}",
            WHY,
            sdk.remedy,
        )
    if not any(sdk.said and sdk.package in there for sdk in SDKS):
        yield Finding("sdk-retries", Severity.ok, "no SDK is installed here of which it is known that it asks again")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _times(count: int) -> str:
    return "once" if count == 1 else f"in {count} places"


# ---- the user's source ---------------------------------------------------------------------------------------------


def _files(modules: Sequence[ModuleType]) -> list[Path]:
    """Those of the modules, and of all that was imported beside or below them or the current folder: not what is
    installed."""
    if not modules:
        return []
    places = [Path(file).resolve() for one in modules if (file := getattr(one, "__file__", None))]
    roots = {Path.cwd().resolve(), *(place.parent for place in places)}
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found = set(places)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        place = Path(file).resolve()
        if roots & set(place.parents) and not installed & set(place.parents) and "site-packages" not in place.parts:
            found.add(place)
    return sorted(found)


def _calls(file: Path) -> Iterator[_Call]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _qualified(node.func, names)) is not None:
            for sdk in SDKS:
                if name in sdk.calls and (sdk.package != "boto3" or _asks_a_model(node)):
                    yield _Call(sdk, name, f"{file.name}:{node.lineno}", _asks_again(node, sdk))


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield (one.asname, one.name) if one.asname else (one.name.partition(".")[0], one.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                yield one.asname or one.name, f"{node.module}.{one.name}"


def _qualified(node: ast.expr, names: dict[str, str]) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


def _asks_a_model(call: ast.Call) -> bool:
    """Of boto3's clients only those of models: that S3 asks again is as well."""
    service = call.args[0] if call.args else None
    return not isinstance(service, ast.Constant) or str(service.value).startswith("bedrock")


def _asks_again(call: ast.Call, sdk: Sdk) -> bool | None:
    for keyword in call.keywords:
        if keyword.arg == sdk.keyword:
            if sdk.package == "boto3":
                return False if _total(keyword.value) == 1 else None
            value = _number(keyword.value)  # None: a name, whose value is set elsewhere
            return None if value is None else value > (sdk.keyword == "attempts")
    if any(keyword.arg is None for keyword in call.keywords):  # **options
        return None
    return bool(sdk.said) or sdk.keyword == "attempts"


def _total(config: ast.expr) -> int | None:
    """How often Config(retries={"total_max_attempts": 1}) lets it ask, where that is written there."""
    if isinstance(config, ast.Call):
        for keyword in config.keywords:
            if keyword.arg == "retries" and isinstance(keyword.value, ast.Dict):
                for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "total_max_attempts":
                        return _number(value)
    return None


def _number(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None
