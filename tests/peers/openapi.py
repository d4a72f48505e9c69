#!/usr/bin/env python3
"""The served OpenAPI documents: a validator reads them, and a fuzzer holds the hub to what they say.

    openapi.py BINARY [EXAMPLES]

Both listeners. The fuzzer sends what the document allows and what it does not; the hub must never answer 5xx, and each
answer must be one that the document tells of: status, content type, headers, schema. For the fuzzer the answers' schemas
are closed, so that a member that the document does not tell of is found, too. Left out are fault injection, settings that
switch the hub off, and streams.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from openapi_spec_validator import OpenAPIV31SpecValidator

from hub import Hub, Receiver, until

SEED = 20261121
EXAMPLES_DEFAULT = 40
# A stream has no end, and a WebSocket is no exchange of documents.
LEFT_OUT = ["injectFault", "streamDeliveries", "openSocket"]
# What the document cannot say: a URL may be refused for its address, an org for the key, a time for being past, a
# cursor for being none that was given out. So a request that fits may be refused, with a problem that is told of.
CHECKS_LEFT_OUT = ["positive_data_acceptance"]


def closed(schema):
    """The schema with every object that lists its members closed to others, where nothing is said of others."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: closed(one) for name, one in schema.items()}
    if schema.get("properties") and schema.get("type") in ("object", ["object", "null"]):
        out.setdefault("additionalProperties", False)
    return out


def seeded(hub, receiver):
    """Something of everything that has an id: a webhook that gets on, one that gives up, events, a dead letter."""
    api = hub.public(hub.key(["publish", "consume", "manage", "read"], "acme"))
    retry = {"kind": "fixed", "attempts_max": 1, "delays_ms": [], "jitter": 0}
    webhooks = {}
    for name in ("well", "sick"):
        wanted = {"url": receiver.url("/" + name), "org": "acme", "event_types": ["seed.*"], "retry": retry}
        webhooks[name] = api.json("POST", "/v1/webhooks", wanted)["id"]
    names = ["seeded", "spare"]
    for name in names:
        api.json("POST", "/v1/consumers", {"name": name, "event_types": ["seed.*"], "start": "earliest"})
    for number in range(3):
        api.json("POST", "/v1/events", {"id": f"seed-{number}", "type": "seed.sown", "data": {"number": number}})
    path = "/v1/dead-letters?limit=1"
    letters = until("a dead letter", lambda: api.json("GET", path)["items"])
    return {
        "webhooks": [webhooks["well"], webhooks["sick"]],
        "events": ["seed-0", "seed-1"],
        "dead-letters": [letters[0]["id"]],
        "consumers": [webhooks["sick"]],
        "names": names,
        "breakers": [webhooks["well"]],
    }


# Past a bound of size the hub answers 413, which the fuzzer does not count as a refusal by itself.
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 416, 422]
"""


def fuzz(name, document, address, header, known, scratch, examples):
    """Runs the fuzzer against one listener and gives its status."""
    place = scratch / f"{name}.json"
    place.write_text(json.dumps(closed(document)))
    (scratch / "schemathesis.toml").write_text(SETTINGS)
    command = [os.fspath(pathlib.Path(sys.executable).with_name("schemathesis")), "run", os.fspath(place)]
    command += ["--url", f"http://{address}", "--header", header, "--seed", str(SEED), "--max-examples", str(examples)]
    command += ["--checks", "all", "--exclude-checks", ",".join(CHECKS_LEFT_OUT), "--request-timeout", "20"]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--no-color", "--generation-database", "none"]
    for operation in LEFT_OUT:
        command += ["--exclude-operation-id", operation]
    hooks = pathlib.Path(__file__).with_name("openapi_hooks.py")
    settings = {"SCHEMATHESIS_HOOKS": os.fspath(hooks), "TIDEGATE_KNOWN_IDS": json.dumps(known)}
    environment = os.environ | settings | {"PYTHONPATH": os.fspath(hooks.parent)}
    return subprocess.run(command, env=environment, cwd=scratch).returncode


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    examples = int(sys.argv[2]) if len(sys.argv) > 2 else EXAMPLES_DEFAULT
    failed = []
    with tempfile.TemporaryDirectory(prefix="tidegate-peers-") as text:
        scratch = pathlib.Path(text)
        receiver = Receiver(lambda path, headers: 400 if path == "/sick" else 200)
        quick = {"TIDEGATE__DELIVERY__CONNECT_TIMEOUT_MS": "300", "TIDEGATE__DELIVERY__TOTAL_TIMEOUT_MS": "600"}
        with Hub(binary, scratch / "data", **quick) as hub:
            known = seeded(hub, receiver)
            key = hub.key(["publish", "consume", "work", "manage", "read"], "acme")
            token = (hub.data_dir / "admin.token").read_text().strip()
            listeners = [
                ("public", hub.public(key), f"X-API-Key: {key}"),
                ("admin", hub.admin(), f"Authorization: Bearer {token}"),
            ]
            for name, api, header in listeners:
                document = api.json("GET", "/v1/openapi.json")
                OpenAPIV31SpecValidator(document).validate()
                operations = sum(len(path) for path in document["paths"].values())
                print(f"{name}: a valid OpenAPI {document['openapi']} document of {operations} operations", flush=True)
                if fuzz(name, document, api.address, header, known, scratch, examples) != 0:
                    failed.append(name)
            if not hub.ready():
                failed.append("the hub is not ready after it")
        panics = [line for line in hub.log_path.read_text(errors="replace").splitlines() if "panicked" in line]
        print("\n".join(panics[:20]))
        failed += ["a panic is in the hub's log"] if panics else []
    print("0 passed, 1 failed: " + "; ".join(failed) if failed else "1 passed, 0 failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
