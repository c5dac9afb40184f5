# The service alone, as a user without rights. Its state (stores, and the embedded log if no Kafka is named) is in /data.
FROM python:3.11-slim

WORKDIR /srv/profiles
RUN useradd --system --uid 10001 --home-dir /nonexistent profiles && install -d -o profiles -m 0700 /data
COPY pyproject.toml constraints.txt README.md ./
COPY streams streams
COPY app app
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

USER profiles
ENV PROFILES_BIND=0.0.0.0 PROFILES_STATE_DIR=/data PROFILES_LOG_FORMAT=json PYTHONDONTWRITEBYTECODE=1
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\", 8080)}/readyz', timeout=2)"]
CMD ["python", "-m", "app", "run"]
