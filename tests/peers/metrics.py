#!/usr/bin/env python3
"""Prometheus' own checker reads the hub's metrics after some traffic, good and bad.

    metrics.py BINARY PROMTOOL
"""

import pathlib
import subprocess
import sys
import tempfile

from hub import Hub, Receiver, until


def main():
    binary, promtool = sys.argv[1:3]
    status_of = {"/well": 200, "/sick": 500, "/gone": 410, "/closed": 401}
    with tempfile.TemporaryDirectory(prefix="tidegate-peers-") as scratch:
        receiver = Receiver(lambda path, headers: status_of[path])
        with Hub(binary, pathlib.Path(scratch) / "data") as hub:
            api = hub.public(hub.key(["publish", "manage", "read"], "acme"))
            for path in status_of:
                retry = {"kind": "fixed", "delays_ms": [20, 20], "jitter": 0}
                wanted = {"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry}
                api.json("POST", "/v1/webhooks", wanted)
            reads = {"it": {"path": "/well"}, "sick": {"path": "/sick"}}
            crm = {"id": "crm", "base_url": receiver.url(""), "reads": reads, "retry": retry}
            hub.admin().json("POST", "/v1/admin/upstreams", crm)
            for read in reads:
                api.call("GET", f"/v1/upstreams/crm/reads/{read}")
            for number in range(20):
                api.json("POST", "/v1/events", {"id": f"m-{number}", "type": "a.b"})
            api.call("POST", "/v1/events", b"not json")
            well = lambda: sum(path == "/well" for path, _, _ in receiver.snapshot()) >= 20
            until("twenty deliveries", well)
            status, metrics = hub.admin().call("GET", "/metrics")
    if status != 200:
        raise SystemExit(f"/metrics answers {status}")
    checked = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True)
    said = (checked.stdout + checked.stderr).decode(errors="replace").strip()
    if said:
        print(said)
    good = checked.returncode == 0
    series = sum(not line.startswith(b"#") for line in metrics.splitlines())
    print(f"{series} series read by promtool")
    print("1 passed, 0 failed" if good else "0 passed, 1 failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
