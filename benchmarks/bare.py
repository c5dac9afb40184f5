"""The limit of the HTTP layer: falcon answers one constant profile, on the very server class that the service runs on.

    python -m benchmarks.bare          # listens on PORT, like the service

No store, no log, no edge: what a GET of the service costs beyond this is the service's own.
"""

import os
import sys

from falcon import MEDIA_JSON
from falcon.asgi import App, Request, Response

from app.config import AppConfig
from app.observability import logs
from app.server.serving import serve

_START = (
    b'{"uid":"0b7a4a2e-6d0c-4f7e-9a55-3d1f6f1f2c11","username":"Grace Hopper","email":"grace@example.com",'
    b'"version":1,"created_at":"2026-01-01T00:00:00.000Z","updated_at":"2026-01-01T00:00:00.000Z"'
)
BODY = _START + b" " * (199 - len(_START)) + b"}"  # 200 bytes, about the size of a profile


class Constant:
    """Answers every path with the same bytes."""

    async def on_get(self, _req: Request, resp: Response, uid: str = "") -> None:
        resp.content_type = MEDIA_JSON
        resp.set_header("ETag", '"1"')
        resp.data = BODY


def create_app() -> App:  # type: ignore[type-arg]
    """Return the application."""
    app = App()
    app.add_route("/api/profile/{uid}", Constant())
    app.add_route("/readyz", Constant())
    return app


if __name__ == "__main__":
    config = AppConfig.from_env(os.environ)
    logs.configure(log_format=config.log_format, log_level="warning")
    sys.stderr.flush()
    serve(config, create_app)
