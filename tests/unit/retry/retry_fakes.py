"""Errors that look like those of SDKs which are not installed here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def fake_class(*names: str, base: type[BaseException] = Exception) -> type[BaseException]:
    """A class with these qualified names along its MRO, the nearest first: fake_class("openai.RateLimitError", ...)."""
    cls = base
    for name in reversed(names):
        module, _, simple = name.rpartition(".")
        cls = type(simple, (cls,), {"__module__": module, "__qualname__": simple})
    return cls


def fake(
    *names: str, base: type[BaseException] = Exception, cause: BaseException | None = None, **attributes: Any
) -> Any:
    exc = fake_class(*names, base=base)("the message")
    for name, value in attributes.items():
        setattr(exc, name, value)
    exc.__cause__ = cause
    return exc


class FalsyResponse:
    """As requests.Response: false where the status is an error."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, content: bytes | bool = False) -> None:
        self.status_code = status
        self.headers = headers or {}
        self._content = content

    def __bool__(self) -> bool:
        return self.status_code < 400


def response(status: int, headers: dict[str, str] | None = None, content: bytes | None = None) -> Any:
    made = SimpleNamespace(status_code=status, headers=headers or {})
    if content is not None:
        made._content = content
    return made


def openai_error(name: str, status: int | None = None, headers: dict[str, str] | None = None, **attributes: Any) -> Any:
    if status is None:
        return fake(f"openai.{name}", "openai.APIError", "openai.OpenAIError", **attributes)
    attributes.setdefault("status_code", status)
    attributes.setdefault("response", response(status, headers))
    return fake(f"openai.{name}", "openai.APIStatusError", "openai.APIError", "openai.OpenAIError", **attributes)


def anthropic_error(
    name: str, status: int | None = None, headers: dict[str, str] | None = None, **attributes: Any
) -> Any:
    if status is None:
        return fake(f"anthropic.{name}", "anthropic.APIError", "anthropic.AnthropicError", **attributes)
    attributes.setdefault("status_code", status)
    attributes.setdefault("response", response(status, headers))
    return fake(f"anthropic.{name}", "anthropic.APIStatusError", "anthropic.APIError", **attributes)


def google_error(name: str, code: int, status: str, details: list[Any] | None = None) -> Any:
    body = {"error": {"code": code, "status": status, "message": "no", "details": details or []}}
    return fake(f"google.genai.errors.{name}", "google.genai.errors.APIError", code=code, status=status, details=body)


def bedrock_error(code: str, status: int, headers: dict[str, str] | None = None) -> Any:
    answer = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}, "RequestId": "bed-1"},
    }
    return fake(f"botocore.errorfactory.{code}", "botocore.exceptions.ClientError", response=answer)


def litellm_error(name: str, parent: str, status: int, **attributes: Any) -> Any:
    names = (f"litellm.exceptions.{name}", f"openai.{parent}", "openai.APIError")
    return fake(*names, status_code=status, **attributes)
