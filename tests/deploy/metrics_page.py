"""The metrics page of a server that has had a bad minute: every metric, with every label and both kinds of values."""

from __future__ import annotations

from collections.abc import Iterator

MODEL = {"gen_ai_request_model": "gpt-4o", "gen_ai_provider_name": "openai", "palaver_ai_connection": "OPENAI"}
STORE = {"palaver_store_connection": "AzureWebJobsStorage", "palaver_store_operation": "commit"}
CALLER = {"palaver_caller": "checkout"}

HISTOGRAMS = {
    "rpc_server_call_duration_seconds": [
        {"rpc_system_name": "grpc", "rpc_method": "palaver.v1.AssistantService/PostUserQuery", **status}
        for status in (
            {"rpc_response_status_code": "OK"},
            {"rpc_response_status_code": "INTERNAL", "error_type": "INTERNAL"},
        )
    ],
    "gen_ai_client_token_usage": [
        {**MODEL, **CALLER, "gen_ai_token_type": "input"},
        {**MODEL, **CALLER, "gen_ai_token_type": "output"},
    ],
    "gen_ai_client_operation_duration_seconds": [MODEL, {**MODEL, "error_type": "MODEL_TIMEOUT"}],
    "gen_ai_client_operation_time_to_first_chunk_seconds": [MODEL],
    "gen_ai_execute_tool_duration_seconds": [
        {"gen_ai_tool_name": "price"},
        {"gen_ai_tool_name": "price", "error_type": "timeout"},
    ],
    "palaver_queue_wait_seconds": [{}],
    "palaver_store_call_duration_seconds": [STORE, {**STORE, "error_type": "STORE_UNAVAILABLE"}],
}
COUNTERS = {
    "palaver_turns_total": [
        {"palaver_turn_outcome": "stored", **CALLER},
        {"palaver_turn_outcome": "failed", "error_type": "STORE_FULL", **CALLER},
        {"palaver_turn_outcome": "refused", "error_type": "QUOTA_EXCEEDED", **CALLER},
    ],
    "palaver_retries_total": [{"palaver_ai_connection": "OPENAI", "error_type": "MODEL_RATE_LIMITED"}],
}
GAUGES = {"palaver_turns_active": 900.0, "palaver_turns_queued": 3.0, "palaver_ready": 0.0}
BUCKETS = ("0.5", "30.0", "+Inf")


def page(count: int) -> str:
    """Returns the page after a number of calls of each kind, all of which took 20 seconds or 20 tokens."""
    return "\n".join([*_histograms(count), *_counters(count), *_gauges(), ""])


def _histograms(count: int) -> Iterator[str]:
    for name, series in HISTOGRAMS.items():
        yield f"# TYPE {name} histogram"
        for labels in series:
            for bound in BUCKETS:
                yield f"{name}_bucket{_text({**labels, 'le': bound})} {0 if bound == '0.5' else count}"
            yield f"{name}_count{_text(labels)} {count}"
            yield f"{name}_sum{_text(labels)} {20 * count}"


def _counters(count: int) -> Iterator[str]:
    for name, series in COUNTERS.items():
        yield f"# TYPE {name} counter"
        for labels in series:
            yield f"{name}{_text(labels)} {count}"


def _gauges() -> Iterator[str]:
    for name, value in GAUGES.items():
        yield f"# TYPE {name} gauge"
        yield f"{name} {value}"


def _text(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def labels_by_metric(text: str) -> dict[str, set[str]]:
    """Returns the labels that each series of a page has, by its name."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels = {part.partition("=")[0] for part in rest.partition("}")[0].split(",") if part}
            found.setdefault(name.split()[0], set()).update(labels)
    return found
