#!/usr/bin/env python3
"""OpenTelemetry's own definition of the export request reads what the hub exports.

    traces.py BINARY

Every field must be one that the definition knows; one event's spans must make one trace, from the publish request to the
attempts.
"""

import base64
import json
import pathlib
import sys
import tempfile

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hub import Hub, Receiver, until

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KINDS = {"ingest": 2, "append": 1, "attempt": 3}


def read(body):
    """The request. OTLP has ids in hex, where the JSON of Protocol Buffers has base64; all else is the same."""
    request = json.loads(body)
    for resource in request["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return json_format.ParseDict(request, ExportTraceServiceRequest())


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    collector = Receiver()
    receiver = Receiver()
    with tempfile.TemporaryDirectory(prefix="tidegate-peers-") as scratch:
        endpoint = {"TIDEGATE__TRACE__OTLP_ENDPOINT": collector.url("")}
        with Hub(binary, pathlib.Path(scratch) / "data", **endpoint) as hub:
            api = hub.public(hub.key(["publish", "manage"], "acme"))
            api.json("POST", "/v1/webhooks", {"url": receiver.url("/"), "org": "acme", "event_types": ["*"]})
            api.headers["traceparent"] = f"00-{TRACE}-{CALLER}-01"
            api.json("POST", "/v1/events", {"id": "t-1", "type": "a.b"})
            until("a delivery", receiver.snapshot)
    spans = {}
    for path, headers, body in collector.snapshot():
        assert (path, headers["content-type"]) == ("/v1/traces", "application/json"), (path, headers)
        for resource in read(body).resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert names["service.name"] == "tidegate", names
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                spans[span.name] = span
    assert set(spans) == set(KINDS), sorted(spans)
    parents = {"ingest": bytes.fromhex(CALLER), "append": spans["ingest"].span_id, "attempt": spans["append"].span_id}
    for name, span in spans.items():
        assert span.trace_id.hex() == TRACE and span.parent_span_id == parents[name], span
        assert span.kind == KINDS[name] and 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
        assert len(span.span_id) == 8 and span.status.code == 0, span
    sent = receiver.snapshot()[0][1]["traceparent"]
    assert sent == f"00-{TRACE}-{spans['attempt'].span_id.hex()}-01", sent
    print(f"{len(spans)} spans read by opentelemetry-proto, one trace from the publish request to the attempt")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
