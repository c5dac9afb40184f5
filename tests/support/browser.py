"""A real browser that follows the change feed, and the proxy between it and the nodes.

The page's EventSource is Chromium's own: it parses, keeps the last id and reconnects as browsers do. The proxy is the
load balancer that a browser has before it: it passes a request to the first node that answers, and breaks the browser's
connection when that node's breaks. Invariants: every process ends with the object that started it; what the page has
seen is told in its order.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Address = tuple[str, int]

_PAGE = """<!DOCTYPE html><title>follow</title><script>
let queue = Promise.resolve();
const tell = seen => { queue = queue.then(() => fetch("/seen", {method: "POST", body: JSON.stringify(seen)})); };
const source = new EventSource(TARGET);
for (const kind of ["profile", "deleted", "message"])
  source.addEventListener(kind, event => tell({kind, data: event.data, id: event.lastEventId}));
source.addEventListener("open", () => tell({kind: "open"}));
source.addEventListener("error", () => tell({kind: "error", state: source.readyState}));
</script>"""


def chromium() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Browser:
    """`with Browser(...)`: a headless Chromium with one page. `seen` is what its EventSource dispatched."""

    def __init__(self, directory: Path, addresses: Callable[[], list[Address]], target: str) -> None:
        """*addresses* returns the nodes, the preferred one first; *target* is what the page follows."""
        self.seen: list[dict[str, Any]] = []
        self.connections: list[Address] = []
        self._directory = directory
        handler = type(
            "Handler", (_Handler,), {"browser": self, "addresses": staticmethod(addresses), "target": target}
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._serving = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Browser":
        path = chromium()
        assert path is not None
        self._serving.start()
        self._directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        with (self._directory / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    path,
                    *arguments,
                    f"--user-data-dir={self._directory / 'profile'}",
                    f"http://127.0.0.1:{self._server.server_port}/page",
                ],
                env={**os.environ, "HOME": str(self._directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    browser: Browser
    addresses: Callable[[], list[Address]]
    target: str

    def do_GET(self) -> None:
        if self.path == "/page":
            body = _PAGE.replace("TARGET", json.dumps(self.target)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif self.path.startswith("/api/"):
            self._pass_on()
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.browser.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def _pass_on(self) -> None:
        headers = {name: value for name in ("Accept", "Last-Event-ID") if (value := self.headers.get(name))}
        for address in self.addresses():
            connection = http.client.HTTPConnection(*address, timeout=30)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", self.path, headers=headers)
                response = connection.getresponse()
                if response.status == 503:
                    continue
                self.browser.connections.append(address)
                self.send_response(response.status)
                self.send_header("Content-Type", response.getheader("Content-Type", ""))
                self.send_header("Connection", "close")
                self.end_headers()
                while data := response.read1(65_536):
                    self.wfile.write(data)
                    self.wfile.flush()
                return
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """The test tells what went wrong."""
