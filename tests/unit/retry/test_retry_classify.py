"""Which category each provider's errors get: the table of docs/how-to/retries.md, class by class."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
from email.message import Message
from typing import Any

import pytest
from retry_fakes import (
    FalsyResponse,
    anthropic_error,
    bedrock_error,
    fake,
    google_error,
    litellm_error,
    openai_error,
    response,
)

from queuekit.errors import SoftTimeout
from queuekit.retry import Category, Lost, TimeLimit, classify

C = Category
PER_DAY = [
    {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}],
    }
]
PER_MINUTE = [{"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}]}]


def anthropic_body(kind: str, **more: object) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": "no", **more}}


def said(words: str, *names: str, **attributes: Any) -> Any:
    """An error that tells what it is in its text alone."""
    exc = fake(*names, **attributes)
    exc.args = (words,)
    return exc


def requests_error(inner: BaseException) -> Any:
    exc = fake("requests.exceptions.ConnectionError", base=OSError)
    exc.args = (inner,)
    return exc


TABLE = [
    # what real endpoints and SDKs taught: see tests/exceptions
    (anthropic_error("InternalServerError", 503, body=anthropic_body("api_error")), C.overloaded),
    (anthropic_error("InternalServerError", 504, body=anthropic_body("api_error")), C.timeout),
    (anthropic_error("InternalServerError", 500, body=anthropic_body("api_error")), C.server),
    (said("prompt is too long: 9 > 8", "anthropic.BadRequestError", status_code=400), C.context_length),
    (said("input is too long", "anthropic.AuthenticationError", status_code=401), C.auth),
    (said("Prompt is too long for me", "builtins.ValueError"), C.unknown),
    (requests_error(fake("urllib3.exceptions.ReadTimeoutError")), C.timeout),
    (requests_error(fake("urllib3.exceptions.ProtocolError", "urllib3.exceptions.HTTPError")), C.connection),
    (
        said("AnthropicError - overloaded_error", "litellm.exceptions.InternalServerError", status_code=500),
        C.overloaded,
    ),
    (
        said("OpenAIException - Connection error.", "litellm.exceptions.InternalServerError", status_code=500),
        C.connection,
    ),
    (said("OpenAIException - oh", "litellm.exceptions.InternalServerError", status_code=500), C.server),
    (said("overloaded_error", "openai.InternalServerError", status_code=500), C.server),
    (said("X - timed out", "litellm.exceptions.APIConnectionError", status_code=500), C.timeout),
    (said("You exceeded your current quota", "litellm.exceptions.RateLimitError", status_code=429), C.quota),
    (said("X - content_policy_violation", "litellm.exceptions.BadRequestError", status_code=400), C.content_filter),
    (said("X - overloaded", "litellm.exceptions.APIConnectionError", status_code=500), C.overloaded),
    (
        fake(
            "litellm.exceptions.MidStreamFallbackError",
            "litellm.exceptions.ServiceUnavailableError",
            status_code=500,
            original_exception=fake("litellm.exceptions.AuthenticationError", status_code=401),
        ),
        C.auth,
    ),
    (
        fake(
            "litellm.exceptions.MidStreamFallbackError", "litellm.exceptions.ServiceUnavailableError", status_code=500
        ),
        C.connection,
    ),
    # openai
    (openai_error("RateLimitError", 429), C.rate_limit),
    (openai_error("RateLimitError", 429, body={"type": "requests", "code": "rate_limit_exceeded"}), C.rate_limit),
    (openai_error("RateLimitError", 429, body={"type": "insufficient_quota", "code": None}), C.quota),
    (openai_error("RateLimitError", 429, code="insufficient_quota", type="insufficient_quota", body=None), C.quota),
    (
        openai_error(
            "RateLimitError", 429, body={"type": "insufficient_quota", "code": "project_spend_limit_exceeded"}
        ),
        C.quota,
    ),
    (openai_error("APITimeoutError"), C.timeout),
    (fake("openai.APITimeoutError", "openai.APIConnectionError", "openai.APIError"), C.timeout),
    (openai_error("APIStatusError", 408), C.timeout),
    (openai_error("InternalServerError", 500), C.server),
    (openai_error("InternalServerError", 502), C.server),
    (openai_error("InternalServerError", 503), C.overloaded),
    (openai_error("InternalServerError", 504), C.timeout),
    (openai_error("APIConnectionError"), C.connection),
    (
        openai_error("AuthenticationError", 401, body={"type": "invalid_request_error", "code": "invalid_api_key"}),
        C.auth,
    ),
    (openai_error("AuthenticationError", 401, body={"type": "invalid_request_error"}), C.auth),
    (openai_error("PermissionDeniedError", 403), C.auth),
    (openai_error("BadRequestError", 400, body={"code": "context_length_exceeded"}), C.context_length),
    (
        openai_error(
            "BadRequestError",
            400,
            body={"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
        ),
        C.content_filter,
    ),
    (
        openai_error("BadRequestError", 400, body={"innererror": {"code": "ResponsibleAIPolicyViolation"}}),
        C.content_filter,
    ),
    (openai_error("BadRequestError", 400), C.bad_request),
    (openai_error("UnprocessableEntityError", 422), C.bad_request),
    (
        openai_error("NotFoundError", 404, body={"type": "invalid_request_error", "code": "model_not_found"}),
        C.not_found,
    ),
    (openai_error("ConflictError", 409), C.conflict),
    (fake("openai.LengthFinishReasonError", "openai.OpenAIError"), C.context_length),
    (fake("openai.ContentFilterFinishReasonError", "openai.OpenAIError"), C.content_filter),
    (openai_error("APIResponseValidationError"), C.bad_output),
    # openai, inside a stream that began with HTTP 200
    (openai_error("APIError", body={"code": "rate_limit_exceeded", "type": "tokens"}), C.rate_limit),
    (openai_error("APIError", body={"type": "server_error", "code": None}), C.server),
    (openai_error("APIError", body={"code": 429, "message": "from a router"}, code="429"), C.rate_limit),
    # another client of the same generator
    (fake("groq.RateLimitError", "groq.APIStatusError", status_code=429, response=response(429)), C.rate_limit),
    (fake("cerebras.cloud.sdk.APIConnectionError", "cerebras.cloud.sdk.APIError"), C.connection),
    # anthropic
    (anthropic_error("RateLimitError", 429, body=anthropic_body("rate_limit_error")), C.rate_limit),
    (
        anthropic_error(
            "RateLimitError",
            429,
            body=anthropic_body("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
        ),
        C.quota,
    ),
    (anthropic_error("APITimeoutError"), C.timeout),
    (anthropic_error("APIStatusError", 408), C.timeout),
    (anthropic_error("InternalServerError", 504), C.timeout),
    (fake("anthropic._exceptions.DeadlineExceededError", "anthropic.APIStatusError", status_code=504), C.timeout),
    (anthropic_error("InternalServerError", 529, body=anthropic_body("overloaded_error")), C.overloaded),
    (fake("anthropic._exceptions.OverloadedError", "anthropic.InternalServerError", status_code=529), C.overloaded),
    (anthropic_error("ServiceUnavailableError", 503), C.overloaded),
    (anthropic_error("InternalServerError", 500, body=anthropic_body("api_error")), C.server),
    (anthropic_error("APIConnectionError"), C.connection),
    (anthropic_error("AuthenticationError", 401), C.auth),
    (anthropic_error("PermissionDeniedError", 403), C.auth),
    (anthropic_error("APIStatusError", 402), C.quota),
    (anthropic_error("BadRequestError", 400, body=anthropic_body("billing_error")), C.quota),
    (anthropic_error("BadRequestError", 400, body=anthropic_body("invalid_request_error")), C.bad_request),
    (anthropic_error("RequestTooLargeError", 413, body=anthropic_body("request_too_large")), C.bad_request),
    # anthropic, inside a stream on HTTP 200
    (anthropic_error("APIStatusError", 200, body=anthropic_body("overloaded_error")), C.overloaded),
    (anthropic_error("APIStatusError", 200, body={"error": {"code": 503}}), C.overloaded),
    # google-genai
    (google_error("ClientError", 429, "RESOURCE_EXHAUSTED"), C.rate_limit),
    (google_error("ClientError", 429, "RESOURCE_EXHAUSTED", PER_MINUTE), C.rate_limit),
    (google_error("ClientError", 429, "RESOURCE_EXHAUSTED", PER_DAY), C.quota),
    (google_error("ServerError", 500, "INTERNAL"), C.server),
    (google_error("ServerError", 503, "UNAVAILABLE"), C.overloaded),
    (google_error("ServerError", 504, "DEADLINE_EXCEEDED"), C.timeout),
    (google_error("ClientError", 401, "UNAUTHENTICATED"), C.auth),
    (google_error("ClientError", 403, "PERMISSION_DENIED"), C.auth),
    (google_error("ClientError", 400, "INVALID_ARGUMENT"), C.bad_request),
    (google_error("ClientError", 400, "INVALID_ARGUMENT", [{"reason": "API_KEY_INVALID"}]), C.auth),
    # litellm
    (litellm_error("RateLimitError", "RateLimitError", 429), C.rate_limit),
    (litellm_error("RateLimitError", "RateLimitError", 429, body={"error": {"code": "insufficient_quota"}}), C.quota),
    (litellm_error("Timeout", "APITimeoutError", 408), C.timeout),
    (litellm_error("InternalServerError", "InternalServerError", 500), C.server),
    (litellm_error("ServiceUnavailableError", "APIStatusError", 503), C.overloaded),
    (litellm_error("APIConnectionError", "APIConnectionError", 500), C.connection),
    (litellm_error("AuthenticationError", "AuthenticationError", 401), C.auth),
    (fake("litellm.exceptions.BudgetExceededError", status_code=422), C.quota),
    (litellm_error("ContextWindowExceededError", "BadRequestError", 400), C.context_length),
    (litellm_error("ContentPolicyViolationError", "BadRequestError", 400), C.content_filter),
    # bedrock
    (bedrock_error("ThrottlingException", 429), C.rate_limit),
    (bedrock_error("ThrottlingException", 400), C.rate_limit),
    (bedrock_error("ModelTimeoutException", 408), C.timeout),
    (fake("botocore.exceptions.ReadTimeoutError", "botocore.exceptions.HTTPClientError"), C.timeout),
    (fake("botocore.exceptions.ConnectTimeoutError", "botocore.exceptions.ConnectionError"), C.timeout),
    (bedrock_error("ServiceUnavailableException", 503), C.overloaded),
    (bedrock_error("ModelNotReadyException", 429), C.overloaded),
    (bedrock_error("ModelErrorException", 424), C.server),
    (fake("botocore.exceptions.EndpointConnectionError", "botocore.exceptions.ConnectionError"), C.connection),
    (fake("botocore.exceptions.ConnectionClosedError", "botocore.exceptions.HTTPClientError"), C.connection),
    (bedrock_error("AccessDeniedException", 403), C.auth),
    (bedrock_error("ExpiredTokenException", 403), C.auth),
    (fake("botocore.exceptions.NoCredentialsError", "botocore.exceptions.BotoCoreError"), C.auth),
    (bedrock_error("ServiceQuotaExceededException", 400), C.quota),
    (bedrock_error("ValidationException", 400), C.bad_request),
    # httpx, httpx2, requests, urllib, aiohttp
    *(
        case
        for package in ("httpx", "httpx2")
        for case in (
            (fake(f"{package}.HTTPStatusError", f"{package}.HTTPError", response=response(429)), C.rate_limit),
            (fake(f"{package}.HTTPStatusError", f"{package}.HTTPError", response=response(402)), C.quota),
            (fake(f"{package}.HTTPStatusError", f"{package}.HTTPError", response=response(401)), C.auth),
            (fake(f"{package}.ReadTimeout", f"{package}.TimeoutException", f"{package}.TransportError"), C.timeout),
            (fake(f"{package}.ConnectError", f"{package}.NetworkError", f"{package}.TransportError"), C.connection),
            (fake(f"{package}.UnsupportedProtocol", f"{package}.TransportError"), C.bad_request),
        )
    ),
    (
        fake("httpx.HTTPStatusError", response=response(429, content=b'{"error": {"code": "insufficient_quota"}}')),
        C.quota,
    ),
    (
        fake("requests.exceptions.HTTPError", "requests.exceptions.RequestException", response=FalsyResponse(429)),
        C.rate_limit,
    ),
    (fake("requests.exceptions.HTTPError", response=FalsyResponse(403)), C.auth),
    (fake("requests.exceptions.Timeout", "requests.exceptions.RequestException"), C.timeout),
    (fake("requests.exceptions.ConnectTimeout", "requests.exceptions.ConnectionError"), C.timeout),
    (fake("requests.exceptions.ConnectionError", "requests.exceptions.RequestException"), C.connection),
    (
        fake("aiohttp.client_exceptions.ClientResponseError", "aiohttp.client_exceptions.ClientError", status=503),
        C.overloaded,
    ),
    (urllib.error.HTTPError("http://x", 429, "no", Message(), None), C.rate_limit),
    (urllib.error.URLError("refused"), C.connection),
    # pydantic-ai
    (
        fake(
            "pydantic_ai.exceptions.ModelHTTPError", "pydantic_ai.exceptions.ModelAPIError", status_code=401, body=None
        ),
        C.auth,
    ),
    (fake("pydantic_ai.exceptions.ModelAPIError", "pydantic_ai.exceptions.AgentRunError"), C.connection),
    (fake("pydantic_ai.exceptions.UnexpectedModelBehavior", "pydantic_ai.exceptions.AgentRunError"), C.bad_output),
    # the standard library, and ours
    (TimeoutError(), C.timeout),
    (TimeoutError(), C.timeout),
    (ConnectionResetError(), C.connection),
    (json.JSONDecodeError("no", "x", 0), C.bad_output),
    (SoftTimeout(), C.time_limit),
    (TimeLimit(), C.time_limit),
    (fake("billiard.exceptions.SoftTimeLimitExceeded"), C.time_limit),
    (fake("billiard.exceptions.TimeLimitExceeded"), C.time_limit),
    (fake("rq.timeouts.JobTimeoutException", "rq.timeouts.BaseTimeoutException"), C.time_limit),
    (
        fake("dramatiq.middleware.time_limit.TimeLimitExceeded", "dramatiq.threading.Interrupt", base=BaseException),
        C.time_limit,
    ),
    (Lost(), C.lost),
    (TypeError(), C.unknown),
    (ValueError(), C.unknown),
    (RuntimeError(), C.unknown),
    (fake("myapp.errors.RateLimitError"), C.rate_limit),
]


def label(value: object) -> str:
    if isinstance(value, BaseException):
        status = getattr(value, "status_code", "")
        return f"{type(value).__module__}.{type(value).__qualname__}{status}"
    return str(value)


@pytest.mark.parametrize(("exc", "category"), TABLE, ids=label)
def test_each_error_gets_its_category(exc: BaseException, category: Category) -> None:
    assert classify(exc).category is category


def test_the_reason_names_the_class_the_status_and_the_code_and_nothing_of_the_message() -> None:
    exc = openai_error("RateLimitError", 429, body={"code": "insufficient_quota", "message": "secret prompt"})
    exc.args = ("secret prompt",)
    assert classify(exc).reason == "openai.RateLimitError (429, insufficient_quota)"


# ---- where the wait stands -----------------------------------------------------------------------------------------

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def limited(headers: dict[str, str]) -> Any:
    return openai_error("RateLimitError", 429, headers)


HINTS = [
    (limited({"Retry-After": "20"}), 20),
    (limited({"retry-after": "1.5"}), 1.5),
    (limited({"retry-after-ms": "1500", "retry-after": "2"}), 1.5),
    (limited({"retry-after-ms": "soon", "retry-after": "2"}), 2),
    (limited({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"}), 60),
    (limited({"retry-after": "Tue, 14 Nov 2023 22:10:00 GMT"}), 0),
    (limited({"retry-after": "Tue Nov 14 22:14:20 2023"}), 60),
    (limited({"retry-after": "-1"}), None),
    (limited({"retry-after": "nan"}), None),
    (limited({"retry-after": "inf"}), None),
    (limited({"retry-after": "9" * 400}), None),
    (limited({"retry-after": "later"}), None),
    (limited({"retry-after": ""}), None),
    (limited({}), None),
    (bedrock_error("ThrottlingException", 429, {"x-amz-retry-after": "2500"}), 2.5),
    (google_error("ClientError", 429, "RESOURCE_EXHAUSTED", [{"@type": "RetryInfo", "retryDelay": "36s"}]), 36),
    (google_error("ClientError", 429, "RESOURCE_EXHAUSTED", [{"retryDelay": "1m0.5s"}]), 60.5),
    (google_error("ClientError", 429, "RESOURCE_EXHAUSTED", [{"retryDelay": "never"}]), None),
    (litellm_error("RateLimitError", "RateLimitError", 429, litellm_response_headers={"Retry-After": "7"}), 7),
    (fake("pydantic_ai.exceptions.ModelHTTPError", status_code=429, body=None, retry_after=12.0), 12),
    (fake("pydantic_ai.exceptions.ModelHTTPError", status_code=429, body=None, headers={"retry-after": "9"}), 9),
    (fake("requests.exceptions.HTTPError", response=FalsyResponse(429, {"Retry-After": "11"})), 11),
    # buckets: only the exhausted ones count, and of those the last to be filled again
    (
        limited(
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-tokens": "149",
                "x-ratelimit-reset-tokens": "9m",
            }
        ),
        360,
    ),
    (
        limited(
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "12ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1h2m3s",
            }
        ),
        3723,
    ),
    (limited({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30"}), 30),
    (limited({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1700000060"}), None),
    (limited({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}), None),
    (limited({"retry-after": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}), 1),
    (
        anthropic_error(
            "RateLimitError",
            429,
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:50Z",
                "anthropic-ratelimit-requests-remaining": "9",
                "anthropic-ratelimit-requests-reset": "2023-11-14T23:13:50Z",
            },
        ),
        30,
    ),
    (
        openai_error(
            "InternalServerError", 500, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
        ),
        None,
    ),
    (openai_error("InternalServerError", 503, {"retry-after": "4"}), 4),
]


@pytest.mark.parametrize(("exc", "hint"), HINTS)
def test_the_wait_is_read_from_where_the_provider_writes_it(exc: BaseException, hint: float | None) -> None:
    found = classify(exc, now=NOW).hint
    assert found == (hint if hint is None else pytest.approx(hint))


def test_the_last_of_the_exhausted_buckets_counts_in_any_order() -> None:
    resets = {"requests": "1h", "tokens": "1s"}
    for names in (["requests", "tokens"], ["tokens", "requests"]):
        headers = {f"x-ratelimit-remaining-{name}": "0" for name in names}
        headers |= {f"x-ratelimit-reset-{name}": resets[name] for name in names}
        assert classify(limited(headers)).hint == 3600


def test_the_headers_of_the_response_win_over_copies() -> None:
    exc: Any = limited({"retry-after": "5"})
    exc.headers = {"Retry-After": "50"}
    assert classify(exc).hint == 5


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system's time zone cannot be set from within")
def test_a_date_without_a_zone_means_utc_wherever_the_worker_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert classify(limited({"retry-after": "Tue Nov 14 22:14:20 2023"}), now=NOW).hint == 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_needs_a_clock_and_is_left_out_without_one() -> None:
    assert classify(limited({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"})).hint is None


def test_a_wrapper_without_a_hint_takes_that_of_its_cause() -> None:
    cause = openai_error("RateLimitError", 429, {"retry-after": "20"})
    exc = fake("pydantic_ai.exceptions.ModelHTTPError", status_code=429, body=None, headers=None, cause=cause)
    assert classify(exc) == classify(cause).__class__(
        Category.rate_limit, 20.0, 429, "pydantic_ai.exceptions.ModelHTTPError (429)"
    )


# ---- chains and groups ---------------------------------------------------------------------------------------------


def test_an_unknown_error_means_what_its_cause_means() -> None:
    exc = fake("myapp.Boom", cause=fake("myapp.Layer", cause=openai_error("RateLimitError", 429)))
    found = classify(exc)
    assert (found.category, found.reason) == (Category.rate_limit, "myapp.Boom from openai.RateLimitError (429)")


def test_the_context_says_nothing() -> None:
    try:
        try:
            raise openai_error("RateLimitError", 429)
        except Exception:  # noqa: BLE001
            raise KeyError("a bug in the handler")  # noqa: B904
    except KeyError as exc:
        assert exc.__context__ is not None
        assert classify(exc).category is Category.unknown


@pytest.mark.parametrize(
    "hard", [openai_error("AuthenticationError", 401), openai_error("RateLimitError", 429, code="insufficient_quota")]
)
@pytest.mark.parametrize(
    "wrapper", ["openai.APIConnectionError", "openai.RateLimitError", "builtins.TimeoutError", "myapp.Any"]
)
def test_no_wrapper_softens_auth_or_quota(hard: BaseException, wrapper: str) -> None:
    assert classify(fake(wrapper, cause=hard)).category is classify(hard).category


def test_a_connection_error_is_what_its_cause_says() -> None:
    exc = fake("openai.APIConnectionError", cause=fake("httpx.ReadTimeout", "httpx.TimeoutException"))
    assert classify(exc).category is Category.timeout
    assert classify(fake("openai.APIConnectionError", cause=TypeError())).category is Category.connection


@pytest.mark.parametrize("limit", [SoftTimeout(), TimeLimit(), fake("billiard.exceptions.SoftTimeLimitExceeded")])
def test_a_time_limit_that_an_sdk_swallowed_is_found(limit: BaseException) -> None:
    exc = fake("openai.APIConnectionError", cause=fake("httpx.ConnectError", cause=limit))
    assert classify(exc).category is Category.time_limit
    assert classify(BaseExceptionGroup("tasks", [ValueError(), exc])).category is Category.time_limit


def test_the_timeout_of_asyncio_is_no_cancellation_and_no_time_limit() -> None:
    async def slow() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(slow())
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert classify(caught.value).category is Category.timeout


def test_a_group_is_as_bad_as_its_worst_member() -> None:
    limit = openai_error("RateLimitError", 429)
    assert classify(ExceptionGroup("g", [limit, openai_error("AuthenticationError", 401)])).category is Category.auth
    assert classify(ExceptionGroup("g", [limit, TypeError()])).category is Category.unknown
    hinted = ExceptionGroup("g", [limit, limited({"retry-after": "5"}), limited({"retry-after": "3"})])
    assert classify(hinted).hint == 5
    assert classify(fake("myapp.Boom", cause=ExceptionGroup("g", [limit]))).category is Category.rate_limit


# ---- traps ---------------------------------------------------------------------------------------------------------


def test_every_read_is_guarded() -> None:
    class Hostile(Exception):
        def __getattribute__(self, name: str) -> object:
            if name.startswith("__class"):
                return super().__getattribute__(name)
            raise RuntimeError(name)

        def __str__(self) -> str:
            raise RuntimeError

    assert classify(Hostile()).category is Category.unknown


def test_a_property_that_raises_hides_only_itself() -> None:
    class Half(Exception):
        status_code = 429

        @property
        def request(self) -> object:
            raise RuntimeError("unset")

        @property
        def response(self) -> object:
            raise RuntimeError("unset")

        @property
        def body(self) -> object:
            raise KeyError

    assert classify(Half()).category is Category.rate_limit


def test_a_response_that_raises_when_it_is_looked_at() -> None:
    class Proxy:
        @property
        def __class__(self) -> type:
            raise RuntimeError("working outside of a context")

    exc = fake("myapp.RateLimitError", response=Proxy(), body=Proxy())
    assert classify(exc).category is Category.rate_limit


@pytest.mark.parametrize(
    ("attributes", "category"),
    [
        ({"code": 429}, Category.unknown),  # an exit code, an errno: anything
        ({"code": 429, "response": response(200)}, Category.unknown),  # the response has a status of its own
        ({"code": 429, "response": object()}, Category.rate_limit),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, Category.rate_limit),
        ({"code": 503, "details": {}}, Category.overloaded),
        ({"code": True, "details": {}}, Category.unknown),
        ({"code": 7, "details": {}}, Category.unknown),
        ({"status_code": "429"}, Category.unknown),
        ({"status_code": True}, Category.unknown),
    ],
)
def test_a_bare_integer_code_is_a_status_only_in_company(attributes: dict[str, object], category: Category) -> None:
    assert classify(fake("myapp.Error", **attributes)).category is category


def test_a_body_that_echoes_the_request_says_nothing_by_it() -> None:
    body = {"error": {"code": "bad", "input": {"code": "insufficient_quota"}, "message": "rate_limit_exceeded"}}
    assert classify(openai_error("InternalServerError", 500, body=body)).category is Category.server


def test_bodies_of_any_shape_are_survived() -> None:
    endless: dict[str, object] = {}
    endless["error"] = endless
    deep: object = {"code": "insufficient_quota"}
    for _ in range(5000):
        deep = [deep]
    for body in (
        endless,
        deep,
        b"\xff{",
        "{not json",
        "[" * 60000,
        "9" * 5000,
        [None, 7, "x"],
        {"error": "text"},
        object(),
    ):
        assert classify(openai_error("RateLimitError", 429, body=body)).category is Category.rate_limit


def test_the_body_of_an_unread_response_is_not_asked_for() -> None:
    class Streaming:
        status_code = 429
        headers = None
        _content = False

        @property
        def content(self) -> bytes:
            raise AssertionError("this would read from the network")

        json = text = content

    assert classify(fake("requests.exceptions.HTTPError", response=Streaming())).category is Category.rate_limit


def test_circles_of_causes_end() -> None:
    a, b = fake("myapp.A"), fake("myapp.B")
    a.__cause__, b.__cause__ = b, a
    assert classify(a).category is Category.unknown
    a.__cause__ = a
    assert classify(a).category is Category.unknown
    inner = fake("myapp.C")
    group = ExceptionGroup("g", [inner])
    inner.__cause__ = group
    assert classify(group).category is Category.unknown


def test_long_chains_and_deep_groups_end() -> None:
    exc = openai_error("AuthenticationError", 401)
    for _ in range(3000):
        exc = fake("myapp.Layer", cause=exc)
    assert classify(exc).category is Category.unknown  # beyond what is looked at
    group: Exception = TypeError()
    for _ in range(300):
        group = ExceptionGroup("g", [group])
    assert classify(group).category is Category.unknown
