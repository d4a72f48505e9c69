#!/usr/bin/env python3
"""Real GitHub webhooks in and out: every example payload goes through the built binary and must come out the same,
number text and key order included, with a signature that the official Standard Webhooks library verifies.

    deliveries.py BINARY EXAMPLES        EXAMPLES: api.github.com/index.json of npm's @octokit/webhooks-examples
"""

import json
import pathlib
import sys
import tempfile

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from hub import Hub, Receiver, until

ORG = "octokit"
BATCH = 40


def text(value):
    """JSON text that differs whenever a value, a number's digits or the order of keys differs."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read(raw):
    """JSON with its numbers kept as they are written."""
    return json.loads(raw, parse_float=lambda digits: f"float {digits}", parse_int=lambda digits: f"int {digits}")


def envelopes(path):
    """(id, envelope's text, data's text) of every example."""
    found = []
    for group in json.loads(path.read_text()):
        for example in group["examples"]:
            number = len(found)
            action = example.get("action")
            kind = f"github.{group['name']}" + (f".{action}" if isinstance(action, str) else "")
            data = text(example)
            head = text({"id": f"octokit-{number:03}", "type": kind, "source": "github", "org": ORG})
            found.append((f"octokit-{number:03}", f'{head[:-1]},"data":{data}}}', data))
    return found


def publish(api, events):
    """A third one by one, a third in batches, a third as a stream."""
    third = len(events) // 3
    receipts = {}
    for _, envelope, _ in events[:third]:
        receipt = api.json("POST", "/v1/events", envelope.encode(), expect=(202,))
        receipts[receipt["id"]] = receipt
    for start in range(third, 2 * third, BATCH):
        part = [envelope for _, envelope, _ in events[start : min(start + BATCH, 2 * third)]]
        answer = api.json("POST", "/v1/events/batch", f"[{','.join(part)}]".encode(), expect=(202,))
        receipts |= {receipt.get("id"): receipt for receipt in answer["results"]}
    lines = "\n".join(envelope for _, envelope, _ in events[2 * third :]) + "\n"
    status, answer = api.call("POST", "/v1/events/stream", lines.encode(), "application/x-ndjson")
    if status not in (200, 202):
        raise SystemExit(f"stream: {status} {answer.decode(errors='replace')}")
    for line in answer.decode().splitlines():
        receipt = json.loads(line)
        receipts[receipt.get("id")] = receipt
    return receipts


def check(delivery, sent, webhook):
    """What is wrong with a delivery; nothing when all is well."""
    _, headers, body = delivery
    try:
        webhook.verify(body, headers)
    except WebhookVerificationError as error:
        return f"the official library refuses it: {error}"
    try:
        webhook.verify(body + b" ", headers)
        return "the official library verifies it although it was changed"
    except WebhookVerificationError:
        pass
    if text(read(body)["data"]) != text(read(sent)):
        return "its data is not what was sent"
    return None


def main():
    binary, examples = sys.argv[1], pathlib.Path(sys.argv[2])
    events = envelopes(examples)
    failures = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-peers-") as scratch:
        receiver = Receiver()
        with Hub(binary, pathlib.Path(scratch) / "data") as hub:
            api = hub.public(hub.key(["publish", "manage", "read"], ORG))
            made = api.json(
                "POST", "/v1/webhooks", {"url": receiver.url("/hook"), "org": ORG, "event_types": ["github.*"]}
            )
            webhook = Webhook(made["signing_secret"])
            receipts = publish(api, events)
            wanted = {event_id for event_id, _, _ in events}
            for event_id in wanted:
                if "seq" not in receipts.get(event_id, {}):
                    failures[event_id] = f"was not taken: {receipts.get(event_id)}"
            expected = wanted - failures.keys()
            until(f"{len(expected)} deliveries", lambda: expected <= receiver.ids())
            deliveries = {delivery[1]["webhook-id"]: delivery for delivery in receiver.snapshot()}
            for event_id, _, data in events:
                if event_id in failures:
                    continue
                wrong = check(deliveries[event_id], data, webhook)
                if wrong is None:
                    status, kept = api.call("GET", f"/v1/events/{event_id}")
                    if status != 200 or text(read(kept)["data"]) != text(read(data)):
                        wrong = f"reading it back: {status}, or other data"
                if wrong:
                    failures[event_id] = wrong
    for event_id, wrong in sorted(failures.items()):
        print(f"{event_id}: {wrong}", file=sys.stderr)
    print(f"{len(events) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures or not events else 0


if __name__ == "__main__":
    sys.exit(main())
