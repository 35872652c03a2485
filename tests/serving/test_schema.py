"""The OpenAPI document describes the server: requests drawn from it get documented responses and no server error."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.served import Live, asked

DRAWN = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
CHAT = "POST /v1/chat/completions"
ENDPOINTS = {
    *(CHAT, "GET /v1/models", "GET /v1/models/{model}", "GET /health", "GET /metrics"),
    *("POST /v1/files", "GET /v1/files/{file_id}", "DELETE /v1/files/{file_id}"),
    "GET /v1/files/{file_id}/view",
}


def draw(operation: Any, mode: GenerationMode) -> set[int]:
    """The statuses of drawn requests to one endpoint, whose responses are checked."""
    seen: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @DRAWN
    def run(case: Any) -> None:
        if operation.label == CHAT and isinstance(case.body, dict):
            case.body = {"max_tokens": 2, **case.body}
            if isinstance(case.body.get("model"), str):
                case.body["model"] = "random"
        seen.add(case.call_and_validate(checks=CHECKS, timeout=60).status_code)

    run()
    return seen


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_drawn_requests_get_documented_responses(live: Live, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    operations = {one.label: one for one in (result.ok() for result in schema.get_all_operations())}
    assert set(operations) == ENDPOINTS
    bodies = mode == GenerationMode.NEGATIVE  # nothing else of a request can be wrong
    takes = [label for label in operations if label.startswith("POST") or not bodies]
    seen = {label: draw(operations[label], mode) for label in takes}
    assert seen[CHAT] <= {200, 400, 404, 422} and 422 in seen[CHAT]
    assert bodies or seen["GET /v1/models"] == {200}
    answered = operations[CHAT].Case(body=asked("Who?"), media_type="application/json")
    assert answered.call_and_validate(checks=CHECKS, timeout=60).status_code == 200
    assert live.get("/health").status_code == 200 and live.idle()
