"""A hub process and a receiver, for checks that are written in another language than the hub."""

import http.client
import http.server
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
import urllib.parse

DEADLINE_S = 120


def until(what, look):
    """Asks again and again until `look` answers something true, and gives that."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit(f"waited {DEADLINE_S} s in vain for: {what}")


class Api:
    """One kept connection to one listener, with one credential."""

    def __init__(self, address, headers):
        self.address, self.headers, self.connection = address, headers, None

    def call(self, method, path, body=None, content_type="application/json"):
        """Status and body's bytes."""
        if body is None:
            return self.send(method, path, {})
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(method, path, {"content-type": content_type}, body)

    def send(self, method, path, headers, body=None):
        """Status and body's bytes of a request with headers of its own."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            self.connection.request(method, path, body, {**self.headers, **headers})
            response = self.connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise

    def json(self, method, path, body=None, content_type="application/json", expect=(200, 201, 202)):
        """The answer as JSON; anything but an expected status ends the check."""
        status, answer = self.call(method, path, body, content_type)
        if status not in expect:
            raise SystemExit(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return json.loads(answer)


class Hub:
    """A hub over a directory; start it again as often as you like."""

    def __init__(self, binary, data_dir, log_path=None, **settings):
        self.binary, self.data_dir = os.fspath(binary), pathlib.Path(data_dir)
        self.log_path = log_path or self.data_dir.with_name(self.data_dir.name + ".log")
        self.settings = {"TIDEGATE__DELIVERY__ALLOW_PRIVATE_NETWORKS": "true", **settings}
        self.process = None

    def start(self):
        self.data_dir.mkdir(parents=True, exist_ok=True)
        addresses = self.data_dir / "addresses.json"
        addresses.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE")}
        command = [self.binary, "serve", "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"]
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [*command, os.fspath(self.data_dir)],
            env=environment | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

        def read():
            if self.process.poll() is not None:
                log = pathlib.Path(self.log.name).read_text(errors="replace")
                raise SystemExit(f"the hub ended while starting, status {self.process.returncode}:\n{log[-8000:]}")
            try:
                return json.loads(addresses.read_text())
            except (OSError, ValueError):
                return None

        found = until("the hub writes its addresses", read)
        self.public_address = found["public"].removeprefix("http://")
        self.admin_address = found["admin"].removeprefix("http://")
        until("the hub is ready", self.ready)
        return self

    def ready(self):
        try:
            return Api(self.admin_address, {}).call("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def admin(self):
        token = (self.data_dir / "admin.token").read_text().strip()
        return Api(self.admin_address, {"authorization": f"Bearer {token}"})

    def public(self, key):
        return Api(self.public_address, {"x-api-key": key})

    def key(self, scopes, org):
        made = self.admin().json("POST", "/v1/admin/keys", {"application": "peers", "org": org, "scopes": scopes})
        return made["key"]

    def send_signal(self, number):
        self.process.send_signal(number)

    def end(self, number=signal.SIGTERM):
        """Ends the process and gives its status."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process = None
        self.log.close()
        return status

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.end()


class Receiver:
    """An endpoint that keeps what it gets. `status(path, headers)` decides the answer."""

    def __init__(self, status=lambda path, headers: 200):
        self.deliveries, self.lock = [], threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = status(self.path, headers)
                with receiver.lock:
                    receiver.deliveries.append((self.path, headers, body))
                self.send_response(answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                """The check says what matters."""

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_):
                """A hub that is killed breaks its connections."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path):
        host, port = self.server.server_address
        return urllib.parse.urlunsplit(("http", f"{host}:{port}", path, "", ""))

    def snapshot(self):
        with self.lock:
            return list(self.deliveries)

    def ids(self):
        with self.lock:
            return {headers.get("webhook-id") for _, headers, _ in self.deliveries}
