"""The OpenAPI document describes the server: requests drawn from it get documented responses and no server error."""

from __future__ import annotations

from collections import Counter
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

from tests.support.served import Live

DRAWN = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
CHAT = "POST /v1/chat/completions"
ENDPOINTS = {
    *(CHAT, "GET /v1/models", "GET /v1/models/{model}", "GET /health", "GET /metrics"),
    *("POST /v1/files", "GET /v1/files/{file_id}", "DELETE /v1/files/{file_id}"),
}


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_drawn_requests_get_documented_responses(live: Live, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    seen: dict[str, Counter[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode == GenerationMode.NEGATIVE and operation.label in ("GET /v1/models", "GET /health", "GET /metrics"):
            continue  # nothing about these can be wrong
        statuses = seen.setdefault(operation.label, Counter())

        @given(case=operation.as_strategy(generation_mode=mode))
        @DRAWN
        def draw(case: Any, statuses: Counter[int] = statuses) -> None:
            if case.operation.label == CHAT and isinstance(case.body, dict):
                case.body = {"max_tokens": 2, **case.body}
                if isinstance(case.body.get("model"), str):
                    case.body["model"] = "random"
            statuses[case.call_and_validate(checks=CHECKS, timeout=60).status_code] += 1

        draw()
    assert set(seen) == ENDPOINTS if mode == GenerationMode.POSITIVE else CHAT in seen
    assert set(seen[CHAT]) <= {200, 400, 404, 422} and 422 in seen[CHAT]
    assert mode == GenerationMode.NEGATIVE or seen["GET /v1/models"].keys() == {200}
    assert live.get("/health").status_code == 200 and live.idle()
