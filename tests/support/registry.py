"""A schema registry that really speaks HTTP, small as it is: Confluent's routes for schemas and subjects, in memory."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Registry:
    """Keeps schemas in memory and counts requests."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.status: int | None = None  # what every request gets instead of an answer
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                registry.requests.append((self.command, self.path, self.headers.get("Authorization")))
                if registry.status is not None:
                    self._answer(registry.status, {"error_code": registry.status})
                else:
                    self._answer(*registry.answer(self.command, self.path, body))

            do_GET = do_POST = _handle  # noqa: N815 - the names that the server wants

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and body for a request."""
        if method == "GET":
            schema_id = int(path.rpartition("/")[2])
            if not 0 < schema_id <= len(self.schemas):
                return 404, {"error_code": 40403}
            return 200, {"schema": self.schemas[schema_id - 1]}
        subject = path.split("/")[2]
        known = self.subjects.setdefault(subject, [])
        if body["schema"] in self.schemas:
            found = self.schemas.index(body["schema"]) + 1
        elif path.endswith("/versions"):
            self.schemas.append(body["schema"])
            found = len(self.schemas)
        else:
            return 404, {"error_code": 40403}
        known.append(found)
        return 200, {"id": found}

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
