"""boto3 and botocore, as they call Bedrock."""

from __future__ import annotations

from typing import Any

import pytest
from expecting import SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3", reason="missing: boto3 (nox -s exceptions)")
    for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def client(url: str, **options: Any) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1.0, read_timeout=1.0, region_name="us-east-1")
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"} | options
    return boto3.session.Session().client("bedrock-runtime", endpoint_url=url, config=config, **keys)


def converse(url: str) -> Any:
    return client(url).converse(modelId="m", messages=[{"role": "user", "content": [{"text": "hello"}]}])


def invoke(url: str) -> Any:
    return client(url).invoke_model(modelId="m", body=b"{}")["body"].read()


def error(status: int, kind: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, {"x-amzn-errortype": kind, **(headers or {})}, {"message": "no"})


STATUSES = [
    case("throttling", error(429, "ThrottlingException"), Category.rate_limit),
    case("throttling-seconds", error(429, "ThrottlingException", {"retry-after": "20"}), Category.rate_limit, 20.0),
    case("throttling-ms", error(429, "ThrottlingException", {"x-amz-retry-after": "1500"}), Category.rate_limit, 1.5),
    case("quota", error(400, "ServiceQuotaExceededException"), Category.quota),
    case("not-ready", error(429, "ModelNotReadyException"), Category.overloaded),
    case("model-timeout", error(408, "ModelTimeoutException"), Category.timeout),
    case("model-error", error(424, "ModelErrorException"), Category.server),
    case("denied", error(403, "AccessDeniedException"), Category.auth),
    case("expired", error(403, "ExpiredTokenException"), Category.auth),
    case("signature", error(403, "InvalidSignatureException"), Category.auth),
    case("unknown-client", error(403, "UnrecognizedClientException"), Category.auth),
    case("not-found", error(404, "ResourceNotFoundException"), Category.not_found),
    case("validation", error(400, "ValidationException"), Category.bad_request),
    case("conflict", error(400, "ConflictException"), Category.conflict),
    case("500", error(500, "InternalServerException"), Category.server),
    case("503", error(503, "ServiceUnavailableException"), Category.overloaded),
    case("502-html", Answer(502, {"content-type": "text/html"}, "<html>bad gateway</html>"), Category.server),
    case("529", Answer(529, body={"message": "overloaded"}), Category.overloaded),
]


@pytest.mark.parametrize("call", [converse, invoke])
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint, answer.status)


@pytest.mark.parametrize("call", [converse, invoke])
@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(request: pytest.FixtureRequest, call: Any, server: Any, category: Category) -> None:
    if call is converse and "cut-off-body" in request.node.name:
        pytest.skip("no error: see test_an_answer_that_cannot_be_read_is_none_for_botocore")
    check(raised(call, server()), category)


def test_a_prompt_that_is_too_long_is_said_in_words_alone() -> None:
    answer = Answer(
        400, {"x-amzn-errortype": "ValidationException"}, {"message": "Input is too long for requested model."}
    )
    check(raised(converse, endpoint(answer)), Category.context_length)


@pytest.mark.parametrize("answer", [Answer(200, body='{"output": [}'), Answer(200, body='{"id": "', then="close")])
def test_an_answer_that_cannot_be_read_is_none_for_botocore(answer: Answer) -> None:
    """It gives an empty one, and there is no error that anybody could judge: a task has to look for the output."""
    with endpoint(answer) as url:
        try:
            assert "output" not in converse(url)
        except Exception as error:  # an older botocore notices that the body is cut off
            assert answer.then == "close"
            check(error, Category.connection)


def test_without_credentials() -> None:
    def call(url: str) -> Any:
        return client(url, aws_access_key_id=None, aws_secret_access_key=None).invoke_model(modelId="m", body=b"{}")

    check(raised(call, endpoint(Answer(200))), Category.auth)


def test_parameters_that_cannot_be() -> None:
    def call(url: str) -> Any:
        return client(url).converse(modelId="m", messages="hello")

    check(raised(call, endpoint(Answer(200))), Category.bad_request)
