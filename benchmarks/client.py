"""A load generator for machines without wrk: keep-alive connections in two processes, on asyncio and nothing else.

    python -m benchmarks.client URL CONNECTIONS SECONDS MODE PROFILES RUN PAUSE_MS

Prints the line that `load.lua` prints. It costs about as much processor time as the server that it measures.
"""

import asyncio
import json
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

_PROCESSES = 2


class Figures:
    """What one process has seen; times in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.bad = 0
        self.broken = 0


def main() -> None:
    """Run the load that the command line asks for."""
    url, connections, seconds, mode, profiles, run, pause_ms = sys.argv[1:]
    shares = [(int(connections) + extra) // _PROCESSES for extra in range(_PROCESSES)]
    jobs = [
        (url, share, float(seconds), mode, profiles, f"{run}{n}", float(pause_ms)) for n, share in enumerate(shares)
    ]
    start = time.perf_counter()
    with ProcessPoolExecutor(_PROCESSES) as pool:
        results = list(pool.map(_process, [job for job in jobs if job[1]]))
    duration_us = round((time.perf_counter() - start) * 1e6)
    times = sorted(value for result in results for value in result.times) or [0.0]
    bad, broken = sum(result.bad for result in results), sum(result.broken for result in results)
    p50_us, p99_us = (round(1e6 * times[int(len(times) * part)]) for part in (0.5, 0.99))
    sys.stdout.write(f"FIGURES {len(times)} {duration_us} {bad} {broken} {p50_us} {p99_us}\n")


def _process(job: tuple[str, int, float, str, str, str, float]) -> Figures:
    return asyncio.run(_clients(*job))


async def _clients(
    url: str, connections: int, seconds: float, mode: str, profiles: str, run: str, pause_ms: float
) -> Figures:
    known = [tuple(line.split("\t")) for line in Path(profiles).read_text().splitlines()]
    figures, parts, end = Figures(), urlsplit(url), time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        sent = 0
        while time.perf_counter() < end:
            if pause_ms:
                await asyncio.sleep(random.uniform(0, 2 * pause_ms) / 1000)
            sent += 1
            request = _request(mode, random.choice(known), f"bench-{run}-{number}-{sent}", parts.netloc)
            start = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
            figures.times.append(time.perf_counter() - start)
            figures.bad += int(head.split(b" ", 2)[1]) >= 400
        writer.close()

    outcomes = await asyncio.gather(*(client(number) for number in range(connections)), return_exceptions=True)
    figures.broken = sum(isinstance(outcome, BaseException) for outcome in outcomes)
    return figures


def _request(mode: str, profile: tuple[str, ...], name: str, host: str) -> bytes:
    uid, email = profile
    method, path, body = "GET", f"/api/profile/{uid}", b""
    if mode == "search":
        path = f"/api/search?email={quote(email)}"
    elif mode == "create":
        method, path = "POST", "/api/profile"
        body = json.dumps({"username": name, "email": f"{name}@example.com"}).encode()
    elif mode == "update":
        method, body = "PUT", json.dumps({"username": name, "email": email}).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


if __name__ == "__main__":
    main()
