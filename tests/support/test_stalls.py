"""The watch that tells when the machine stood still, by stopping the watch itself."""

import os
import signal
import time

import pytest

from tests.support.stalls import LEAST_S, Stalls


def test_a_stall_is_told() -> None:
    with Stalls() as stalls:
        time.sleep(0.3)
        begun_ns = time.monotonic_ns()
        os.kill(stalls.pid, signal.SIGSTOP)
        time.sleep(3 * LEAST_S)
        os.kill(stalls.pid, signal.SIGCONT)
        time.sleep(0.2)
        stalled_s = stalls.seconds_since(begun_ns)
        assert stalled_s >= 2.9 * LEAST_S
        assert stalls.seconds_since(begun_ns + int(LEAST_S * 1e9)) == pytest.approx(stalled_s - LEAST_S, abs=0.05)
        assert stalls.seconds_since(time.monotonic_ns()) == 0
