"""For `gunicorn -c gunicorn.conf.py "app.asgi:create_app()"`. `python -m app run` does the same and needs no file.

The settings come from the environment (docs/operations.md), through the function that `python -m app run` uses, too.
"""

from app.server.serving import settings_from_environment

globals().update(settings_from_environment())
