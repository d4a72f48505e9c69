#!/usr/bin/env python3
"""What the official CloudEvents library sends is accepted unchanged, in structured, binary and batch mode, and comes out
of the hub with the same attributes and data.

    cloudevents_in.py BINARY

Runs with version 1 of the library and with version 2, whose programming interface is another.
"""

import base64
import datetime
import importlib.metadata
import json
import sys
import tempfile

from hub import Hub

ORG = "peers"
VERSION = importlib.metadata.version("cloudevents")
TIME = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.timezone.utc)

# (attributes beside type and source, data)
EVENTS = [
    ({}, None),
    ({}, {"z": 1, "a": [1.5, None, True], "ü": "€"}),
    ({"datacontenttype": "application/json"}, {"n": 12345678901234567890}),
    ({"datacontenttype": "application/vnd.example+json; charset=utf-8"}, {"n": 1}),
    ({"datacontenttype": "text/plain"}, "grüß Gott"),
    ({"datacontenttype": "application/xml"}, "<a b='c'/>"),
    ({"datacontenttype": "image/png"}, b"\x89PNG\r\n\x00\xff"),
    ({"datacontenttype": "application/octet-stream"}, b"plain"),
    ({"subject": "order-7", "dataschema": "https://example.com/schema", "time": TIME}, {"n": 2}),
    ({"comexampletext": "x", "partitionkey": "k-1", "org": ORG, "aggregatetype": "order", "aggregateid": "7"}, {}),
    ({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}, {}),
]
# Version 1 writes what these hold into headers as it is, which HTTP does not carry.
ENCODED = [({"subject": 'Euro € 100% "x"', "comexample": "a b", "facility": "süd"}, {"n": 3})]


def library():
    """Ways to send an event: name -> function(attributes, data) -> (headers, body)."""
    if VERSION.startswith("1."):
        from cloudevents.conversion import to_binary, to_structured
        from cloudevents.http import CloudEvent

        def made(attributes, data):
            text = {name: value.isoformat() if name == "time" else value for name, value in attributes.items()}
            return CloudEvent(text, data)

        def binary(attributes, data):
            # Without being told otherwise, this version writes text as JSON whatever its content type.
            return to_binary(made(attributes, data), (lambda text: text) if isinstance(data, str) else None)

        return {"structured": lambda attributes, data: to_structured(made(attributes, data)), "binary": binary}
    from cloudevents.core.bindings import http
    from cloudevents.core.v1.event import CloudEvent

    def sent(message):
        return message.headers, message.body

    return {
        "structured": lambda attributes, data: sent(http.to_structured_event(CloudEvent(attributes, data))),
        "binary": lambda attributes, data: sent(http.to_binary_event(CloudEvent(attributes, data))),
    }


def data_of(event):
    """The data of an event as it was sent."""
    kept = event["metadata"]["cloudevents"]
    data = event.get("data")
    return base64.b64decode(data) if kept.get("data_base64") else data


def attributes_of(event):
    """The attributes of an event as they were sent, those of the specification's core and the others."""
    kept = {name: value for name, value in event["metadata"]["cloudevents"].items() if name != "data_base64"}
    names = {"subject": "subject", "occurred_at": "time", "org": "org", "facility": "facility"}
    names |= {"aggregate_type": "aggregatetype", "aggregate_id": "aggregateid", "traceparent": "traceparent",
              "tracestate": "tracestate"}
    return kept | {attribute: event[field] for field, attribute in names.items() if field in event}


def check(api, event_id, attributes, data, way):
    event = api.json("GET", f"/v1/events/{event_id}")
    found = attributes_of(event)
    for name, value in attributes.items():
        same = found.get(name) == value
        if name == "time":
            same = datetime.datetime.fromisoformat(found["time"]) == value
        if not same:
            raise SystemExit(f"{way} {attributes}: {name} is {found.get(name)!r}, sent was {value!r}")
    if data_of(event) != data:
        raise SystemExit(f"{way} {attributes}: the data is {data_of(event)!r}, sent was {data!r}")
    if (event["type"], event["source"], found["specversion"]) != ("peer.example", "/peers", "1.0"):
        raise SystemExit(f"{way}: {event}")


def main():
    binary = sys.argv[1]
    ways = library()
    taken = 0
    with tempfile.TemporaryDirectory() as folder, Hub(binary, f"{folder}/data") as hub:
        api = hub.public(hub.key(["publish", "read"], ORG))
        batch = []
        for way, send in ways.items():
            events = EVENTS + (ENCODED if way == "structured" or not VERSION.startswith("1.") else [])
            for number, (more, data) in enumerate(events):
                event_id = f"{way}-{number}"
                attributes = {"id": event_id, "type": "peer.example", "source": "/peers", **more}
                headers, body = send(attributes, data)
                body = body if isinstance(body, bytes) else (b"" if body is None else body.encode())
                status, answer = api.send("POST", "/v1/events", headers, body)
                if status != 202:
                    raise SystemExit(f"{way} {attributes}: {status} {answer.decode()}\n{headers}\n{body}")
                # The library gives what has no time the present one, and JSON data no content type.
                check(api, event_id, more, data, way)
                taken += 1
                if way == "structured":
                    batch.append((f"batch-{number}", more, data, json.loads(body) | {"id": f"batch-{number}"}))
        body = json.dumps([event for _, _, _, event in batch]).encode()
        answer = api.json("POST", "/v1/events", body, "application/cloudevents-batch+json", expect=(202,))
        if answer["accepted"] != len(batch):
            raise SystemExit(f"batch: {answer}")
        for event_id, more, data, _ in batch:
            check(api, event_id, more, data, "batch")
            taken += 1
    print(f"cloudevents {VERSION}: {taken} events taken unchanged ({', '.join(ways)}, batch)")


main()
