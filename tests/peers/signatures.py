#!/usr/bin/env python3
"""Signatures of the built binary under the official Standard Webhooks libraries of PyPI and npm: before, during and after
the overlap of a rotation, each with the secrets that must verify and those that must not.

    signatures.py BINARY NODE_MODULES        NODE_MODULES: a node_modules folder that has standardwebhooks
"""

import base64
import json
import pathlib
import subprocess
import sys
import tempfile

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from hub import Hub, Receiver, until

ORG = "acme"
# Characters that a library which re-encodes the body would trip over.
DATA = {"text": "grün \"x\" \u2028 €", "amount": 12.50, "large": 12345678901234567890}


def by_python(secret, headers, body):
    try:
        Webhook(secret).verify(body, headers)
        return True
    except WebhookVerificationError:
        return False


def by_node(node_modules, cases):
    lines = "".join(
        json.dumps({"secret": secret, "headers": headers, "body": base64.b64encode(body).decode()}) + "\n"
        for secret, headers, body in cases
    )
    script = pathlib.Path(__file__).with_name("verify.mjs")
    answer = subprocess.run(
        ["node", script, node_modules], input=lines, capture_output=True, text=True, timeout=60, check=True
    )
    return [line == "ok" for line in answer.stdout.splitlines()]


def main():
    binary, node_modules = sys.argv[1], sys.argv[2]
    cases, wanted = [], []
    with tempfile.TemporaryDirectory(prefix="tidegate-peers-") as scratch:
        receiver = Receiver()
        with Hub(binary, pathlib.Path(scratch) / "data") as hub:
            api = hub.public(hub.key(["publish", "manage", "read"], ORG))
            made = api.json("POST", "/v1/webhooks", {"url": receiver.url("/hook"), "org": ORG, "event_types": ["*"]})
            rotate = f"/v1/webhooks/{made['id']}/rotate-secret"

            def deliver(event_id, verifying, refusing):
                api.json("POST", "/v1/events", {"id": event_id, "type": "a.b", "data": DATA}, expect=(202,))
                until(f"{event_id} is delivered", lambda: event_id in receiver.ids())
                _, headers, body = next(one for one in receiver.snapshot() if one[1]["webhook-id"] == event_id)
                for secret in verifying + refusing:
                    cases.append((secret, headers, body))
                    wanted.append((event_id, secret in verifying))
                cases.append((verifying[0], headers, body + b" "))
                wanted.append((f"{event_id}, changed", False))

            first = made["signing_secret"]
            deliver("before", [first], [])
            second = api.json("POST", rotate, {}, expect=(200,))["signing_secret"]
            deliver("during", [first, second], [])
            third = api.json("POST", rotate, {"overlap_ms": 0}, expect=(200,))["signing_secret"]
            deliver("after", [third], [first, second])
    failures = 0
    for library, found in (("PyPI", [by_python(*case) for case in cases]), ("npm", by_node(node_modules, cases))):
        if len(found) != len(wanted):
            raise SystemExit(f"{library}: {len(found)} answers to {len(wanted)} questions")
        for (what, verifies), verified in zip(wanted, found):
            if verified != verifies:
                failures += 1
                print(f"{library}, {what}: verified {verified}, wanted {verifies}", file=sys.stderr)
    print(f"{2 * len(wanted) - failures} passed, {failures} failed")
    return 1 if failures or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
