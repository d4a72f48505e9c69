"""What the fuzzer cannot know: ids that exist, how lines are written, settings that would switch the hub off."""

import json
import os
import re
import zlib

import schemathesis

KNOWN = json.loads(os.environ["TIDEGATE_KNOWN_IDS"])
# Of this the seeded things would be gone.
ENDING = {"deleteWebhook", "deletePullConsumer", "revokeKey"}
ID = re.compile(r"(whk|dlq)_[0-9a-f]{32}|[^\x00-\x1f\x7f-\x9f]{1,128}")


def operation_id(operation):
    return operation.definition.raw["operationId"]


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Two of three ids that fit are those of things that are there; what does not fit stays as it is."""
    operation = context.operation
    if not path_parameters or operation_id(operation) in ENDING:
        return path_parameters
    name = path_parameters.get("name")
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        chance = zlib.crc32(name.encode())
        names = KNOWN["names"]
        return {**path_parameters, "name": names[chance // 3 % len(names)]} if chance % 3 else path_parameters
    given = path_parameters.get("id")
    area = [part for part in operation.path.split("/") if part not in ("", "v1", "admin")][0]
    known = KNOWN.get(area, [])
    fits = isinstance(given, str) and (ID.fullmatch(given) if area == "events" else re.fullmatch(r"\w+_\w{32}", given))
    chance = zlib.crc32(given.encode(errors="replace")) if fits else 0
    if known and chance % 3:
        return {**path_parameters, "id": known[chance // 3 % len(known)]}
    return path_parameters


@schemathesis.hook
def before_call(context, case, kwargs):
    """Settings that refuse events or hand none on would turn every later answer into 503. A poll waits as long as it is
    asked to, which the fuzzer takes for a slow answer: a second is long enough here."""
    if operation_id(case.operation) == "changeSettings" and isinstance(case.body, dict):
        for name in ("enabled", "processor_enabled"):
            case.body.pop(name, None)
    wait = case.body.get("wait_ms") if isinstance(case.body, dict) else None
    if isinstance(wait, int) and 1_000 < wait <= 60_000:
        case.body["wait_ms"] = 1_000


@schemathesis.serializer("application/zstd")
def no_frame(context, value):
    """Bytes that are hardly a frame: what is uploaded is looked at when it is committed."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.serializer("application/x-ndjson", "application/ndjson", "application/jsonl")
def lines(context, value):
    """Whatever was made up, as lines of JSON; a text as it is."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace")
    return "".join(json.dumps(one) + "\n" for one in (value if isinstance(value, list) else [value])).encode()
