"""What the OpenAPI page promises, tried with generated requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from score_server import MODEL, ScoreEngine, app_on, listening

from selfjudge.templates.chat import ChatEncoder

OPERATIONS = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/judge"),
    ("GET", "/v1/arena"),
    ("POST", "/v1/arena/pairs"),
    ("POST", "/v1/arena/votes"),
    ("GET", "/v1/arena/votes.jsonl"),
    ("GET", "/v1/runs"),
    ("GET", "/v1/run"),
    ("GET", "/v1/models"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
)

# What has no parameters cannot be sent anything wrong.
TRIED = [
    (method, path, mode) for method, path in OPERATIONS for mode in GenerationMode
    if method == "POST" or path == "/v1/run" or mode is GenerationMode.POSITIVE
]  # fmt: skip


@pytest.fixture(scope="module")
def spec(world_chat: ChatEncoder) -> Iterator[schemathesis.BaseSchema]:
    with listening(app_on(ScoreEngine(world_chat))) as (url, _):
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_tried(spec: schemathesis.BaseSchema) -> None:
    operations = [result.ok() for result in spec.get_all_operations()]
    assert {(operation.method.upper(), operation.path) for operation in operations} == set(OPERATIONS)


def test_invalid_bodies_are_specified_as_what_they_are_answered_with(spec: schemathesis.BaseSchema) -> None:
    assert all("422" not in operation["responses"] for path in spec.raw_schema["paths"].values()
               for operation in path.values())  # fmt: skip


@pytest.mark.parametrize(("method", "path", "mode"), TRIED)
def test_every_answer_is_as_specified(
    spec: schemathesis.BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    # A body can be well-formed and still name a model that is not there, or end with no user's turn.
    excluded = [CHECKS.get_one("positive_data_acceptance")]

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec[path][method].as_strategy(generation_mode=mode))
    def try_out(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = MODEL
        case.call_and_validate(excluded_checks=excluded)

    try_out()
