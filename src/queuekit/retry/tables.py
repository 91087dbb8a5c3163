"""What the classes, codes and statuses of the SDKs mean. Data only.

A worker that judges an error often does not have the SDK's classes at hand, and none of these packages is a
dependency: so all of it goes by name. Checked against openai 2.54 and 3.54, anthropic 2.12, google-genai 3.4,
litellm 1.106, botocore 1.44, httpx, httpx2, requests and pydantic-ai 2.68.
"""

from __future__ import annotations

from queuekit.retry.category import Category

__all__ = [
    "ALIASES",
    "CODES",
    "CONTROL_FLOW",
    "FALLBACK_GROUP",
    "LITELLM_WORDS",
    "NAMES",
    "SIMPLE_NAMES",
    "STRONG",
    "TIME_LIMITS",
    "TOO_LONG",
    "WRAPPERS",
    "status_category",
]

TIME_LIMITS = frozenset(
    {
        "queuekit.errors.SoftTimeout",
        "queuekit.retry.TimeLimit",
        "billiard.exceptions.SoftTimeLimitExceeded",  # celery.exceptions re-exports these two
        "billiard.exceptions.TimeLimitExceeded",
        "celery.exceptions.SoftTimeLimitExceeded",
        "celery.exceptions.TimeLimitExceeded",
        "rq.timeouts.JobTimeoutException",
        "dramatiq.middleware.time_limit.TimeLimitExceeded",
    }
)

CONTROL_FLOW = frozenset(
    {
        "builtins.KeyboardInterrupt",
        "builtins.SystemExit",
        "builtins.GeneratorExit",
        "asyncio.exceptions.CancelledError",
        "trio.Cancelled",
        "greenlet.GreenletExit",
        "queuekit.errors.StaleAttempt",
        "celery.exceptions.TaskPredicate",
        "celery.exceptions.Retry",
        "celery.exceptions.Ignore",
        "celery.exceptions.Reject",
        "billiard.exceptions.Terminated",
        "rq.exceptions.StopRequested",
        "rq.exceptions.ShutDownImminentException",
        "dramatiq.errors.Retry",
        "dramatiq.middleware.middleware.SkipMessage",
        "dramatiq.threading.Interrupt",  # Shutdown, and the Abort of dramatiq-abort
        "dramatiq.middleware.threading.Interrupt",
    }
)

FALLBACK_GROUP = "FallbackExceptionGroup"  # pydantic-ai: a group whose members are alternatives

# Names that people import a class by, where the class calls itself otherwise.
ALIASES = {
    "asyncio.TimeoutError": "builtins.TimeoutError",
    "asyncio.exceptions.TimeoutError": "builtins.TimeoutError",
    "concurrent.futures.TimeoutError": "builtins.TimeoutError",
    "concurrent.futures._base.TimeoutError": "builtins.TimeoutError",
    "socket.timeout": "builtins.TimeoutError",
    "pydantic.ValidationError": "pydantic_core._pydantic_core.ValidationError",
    "celery.exceptions.SoftTimeLimitExceeded": "billiard.exceptions.SoftTimeLimitExceeded",
    "celery.exceptions.TimeLimitExceeded": "billiard.exceptions.TimeLimitExceeded",
}


def _by_category(groups: dict[Category, str]) -> dict[str, Category]:
    return {name: category for category, names in groups.items() for name in names.split()}


# Qualified names, looked up over the MRO, the nearest class first. None: this class says nothing, go by the status
# (and do not look at its base classes, which would).
NAMES: dict[str, Category | None] = {
    **_by_category(
        {
            Category.rate_limit: """
                dramatiq.errors.RateLimitExceeded pydantic_ai.exceptions.ConcurrencyLimitExceeded
                """,
            Category.timeout: """
                builtins.TimeoutError gevent.timeout.Timeout litellm.exceptions.Timeout
                httpx.TimeoutException httpx2.TimeoutException httpcore.TimeoutException
                httpcore._exceptions.TimeoutException
                requests.exceptions.Timeout requests.exceptions.ConnectTimeout
                urllib3.exceptions.TimeoutError urllib3.exceptions.ConnectTimeoutError
                urllib3.exceptions.ReadTimeoutError
                botocore.exceptions.ReadTimeoutError botocore.exceptions.ConnectTimeoutError
                aiohttp.client_exceptions.ServerTimeoutError redis.exceptions.TimeoutError
                google.api_core.exceptions.RetryError
                """,
            Category.connection: """
                builtins.ConnectionError socket.gaierror ssl.SSLError http.client.IncompleteRead urllib.error.URLError
                httpx.TransportError httpx2.TransportError httpcore.NetworkError httpcore._exceptions.NetworkError
                requests.exceptions.ConnectionError requests.exceptions.ChunkedEncodingError
                urllib3.exceptions.HTTPError aiohttp.client_exceptions.ClientConnectionError
                aiohttp.client_exceptions.ClientPayloadError
                botocore.exceptions.ConnectionError botocore.exceptions.EndpointConnectionError
                botocore.exceptions.ConnectionClosedError botocore.exceptions.HTTPClientError
                openai.WebSocketConnectionClosedError redis.exceptions.ConnectionError
                pydantic_ai.exceptions.ModelAPIError litellm.exceptions.MidStreamFallbackError
                """,
            Category.auth: """
                botocore.exceptions.NoCredentialsError botocore.exceptions.PartialCredentialsError
                botocore.exceptions.CredentialRetrievalError botocore.exceptions.TokenRetrievalError
                botocore.exceptions.UnauthorizedSSOTokenError
                google.auth.exceptions.DefaultCredentialsError google.auth.exceptions.RefreshError
                """,
            Category.quota: """
                litellm.exceptions.BudgetExceededError pydantic_ai.exceptions.UsageLimitExceeded
                """,
            Category.overloaded: "litellm.exceptions.ServiceUnavailableError",
            Category.server: "litellm.exceptions.InternalServerError",
            Category.context_length: """
                openai.LengthFinishReasonError litellm.exceptions.ContextWindowExceededError
                pydantic_ai.exceptions.IncompleteToolCall
                """,
            Category.content_filter: """
                openai.ContentFilterFinishReasonError litellm.exceptions.ContentPolicyViolationError
                pydantic_ai.exceptions.ContentFilterError
                """,
            Category.bad_request: """
                botocore.exceptions.ParamValidationError pydantic_ai.exceptions.UserError
                httpx.UnsupportedProtocol httpx2.UnsupportedProtocol httpx.LocalProtocolError httpx2.LocalProtocolError
                """,
            Category.bad_output: """
                json.decoder.JSONDecodeError pydantic_core._pydantic_core.ValidationError
                openai.APIResponseValidationError anthropic.APIResponseValidationError
                litellm.exceptions.APIResponseValidationError litellm.exceptions.JSONSchemaValidationError
                pydantic_ai.exceptions.UnexpectedModelBehavior pydantic_ai.exceptions.ModelRetry
                langchain_core.exceptions.OutputParserException
                instructor.exceptions.InstructorRetryException instructor.core.exceptions.InstructorRetryException
                """,
            Category.time_limit: " ".join(sorted(TIME_LIMITS)),
            Category.lost: "queuekit.retry.Lost",
        }
    ),
    "urllib.error.HTTPError": None,
    "pydantic_ai.exceptions.ModelHTTPError": None,
}

# The class names of every client that Stainless generates (openai, anthropic, groq, cerebras, ...), which litellm and
# others use too. Good in any module but builtins.
SIMPLE_NAMES: dict[str, Category] = _by_category(
    {
        Category.rate_limit: "RateLimitError",
        Category.overloaded: "OverloadedError ServiceUnavailableError",
        Category.server: "InternalServerError",
        Category.timeout: "APITimeoutError DeadlineExceededError",
        Category.connection: "APIConnectionError",
        Category.auth: "AuthenticationError PermissionDeniedError",
        Category.bad_request: "BadRequestError UnprocessableEntityError RequestTooLargeError",
        Category.not_found: "NotFoundError",
        Category.conflict: "ConflictError",
    }
)

# The codes of error bodies, as they are written: lower case OpenAI and Anthropic, CamelCase AWS, upper case Google.
CODES: dict[str, Category] = _by_category(
    {
        Category.quota: """
            insufficient_quota billing_hard_limit_reached billing_not_active billing_error insufficient_balance
            credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded
            organization_usage_limit_exceeded enforced_spend_limit_reached
            ServiceQuotaExceededException ServiceQuotaExceeded
            """,
        Category.context_length: "context_length_exceeded",
        Category.content_filter: """
            content_filter content_policy_violation moderation_blocked ResponsibleAIPolicyViolation
            """,
        Category.auth: """
            invalid_api_key authentication_error permission_error account_deactivated invalid_organization
            unsupported_country_region_territory API_KEY_INVALID UNAUTHENTICATED PERMISSION_DENIED
            AccessDeniedException AccessDenied ExpiredTokenException ExpiredToken UnrecognizedClientException
            InvalidClientTokenId InvalidSignatureException IncompleteSignature MissingAuthenticationToken
            """,
        Category.not_found: """
            model_not_found not_found_error DeploymentNotFound NOT_FOUND ResourceNotFoundException ResourceNotFound
            """,
        Category.rate_limit: """
            rate_limit_exceeded rate_limit_error slow_down RESOURCE_EXHAUSTED
            ThrottlingException Throttling TooManyRequestsException RequestLimitExceeded
            """,
        Category.overloaded: """
            overloaded_error server_is_overloaded service_unavailable_error UNAVAILABLE
            ServiceUnavailableException ServiceUnavailable ModelNotReadyException ModelNotReady
            """,
        Category.timeout: "timeout_error DEADLINE_EXCEEDED ModelTimeoutException RequestTimeout",
        Category.server: """
            server_error api_error internal_error internal_server_error INTERNAL
            InternalServerException InternalFailure ModelErrorException ModelError ModelStreamErrorException
            """,
        Category.conflict: "ABORTED ConflictException",
        # Last, and weaker than a class or a status: OpenAI writes invalid_request_error beside a wrong key as well.
        Category.bad_request: """
            invalid_request_error request_too_large INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE
            ValidationException ValidationError
            """,
    }
)

# How a bad request says that the prompt does not fit into the context, where there is no code for it; in lower case.
TOO_LONG = (
    "prompt is too long",  # Anthropic
    "exceed context limit",  # Anthropic, with max_tokens
    "exceeds the maximum number of tokens",  # Google
    "input is too long",  # Bedrock
    "maximum context length",  # servers that speak as OpenAI does
)

# litellm gives one class and a made-up status to several failures, without a cause: only its words tell them apart.
LITELLM_WORDS: dict[Category, dict[str, Category]] = {
    Category.rate_limit: {"exceeded your current quota": Category.quota},
    Category.bad_request: {"content_policy_violation": Category.content_filter},
    Category.server: {"overloaded_error": Category.overloaded, "exception - connection error": Category.connection},
    Category.connection: {"timed out": Category.timeout, "overloaded": Category.overloaded},
}

# Classes that say nothing by themselves, but for the error in their attribute original_exception.
WRAPPERS = frozenset({"litellm.exceptions.MidStreamFallbackError"})

# Codes that outrank whatever the class and the status say, in this order.
STRONG = (Category.quota, Category.context_length, Category.content_filter, Category.auth)

_STATUSES: dict[int, Category] = {
    401: Category.auth,
    402: Category.quota,
    403: Category.auth,
    404: Category.not_found,
    408: Category.timeout,
    409: Category.conflict,
    410: Category.not_found,
    423: Category.conflict,
    424: Category.server,  # Bedrock: the model failed
    429: Category.rate_limit,
    503: Category.overloaded,
    504: Category.timeout,
    522: Category.timeout,  # Cloudflare, as 524
    524: Category.timeout,
    529: Category.overloaded,  # Anthropic
}


def status_category(status: int | None) -> Category | None:
    """What an HTTP status says by itself; None below 400."""
    if status is None or not 400 <= status <= 599:
        return None
    return _STATUSES.get(status, Category.server if status >= 500 else Category.bad_request)
