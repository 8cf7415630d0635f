"""Clients that are slow, leave, flood or ask for too much harm nobody else: not the server, not its honest clients.

`pytest -m soak tests/skingpt4/server/http/test_hostile.py` sends 2,000 requests; with SKINGPT4_SOAK_JSON=FILE it
writes its figures there.
"""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.http_clients import HOSTILE, Crowd, ServerProcess, ask_honestly, question

MAX_MIB = 2048  # above the model


@pytest.fixture
def server(tmp_path):
    with ServerProcess(tmp_path) as running:
        assert ask_honestly(running)[0] == 200
        yield running


class Health:
    """Asks for /health again and again in a thread, as a context manager; the seconds of each answer."""

    def __init__(self, server):
        self.server, self.over, self.seconds = server, threading.Event(), []
        self.thread = threading.Thread(target=self._go_on, daemon=True)

    def _go_on(self):
        while not self.over.wait(0.05):
            try:
                self.seconds.append(self.server.get_health())
            except OSError:
                self.seconds.append(float("inf"))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def median(values):
    return sorted(values)[len(values) // 2]


def test_a_hundred_hostile_clients_of_all_kinds(server):
    before = server.mib()
    server.forget_peak()
    with Health(server) as health, Crowd(server, list(HOSTILE), 100) as crowd:
        honest = [ask_honestly(server, seed) for seed in range(3)]
    assert {status for status, _ in honest} == {200}
    assert median(health.seconds) < 1  # of all, since other programs may hold up a few
    assert max(health.seconds) < 60
    assert server.mib("VmHWM") - before < MAX_MIB
    assert all(thread.is_alive() or crowd.num_done for thread in crowd.threads)
    assert server.get_health() < 5


@pytest.mark.soak
def test_two_thousand_requests_leave_the_memory_flat(server):
    started, before, memory, honest, done = time.monotonic(), server.mib(), [], [], {}
    server.forget_peak()
    health_seconds = []
    while sum(done.values()) + len(honest) < 2000:
        with Health(server) as health, Crowd(server, list(HOSTILE), 100) as crowd:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                honest.append(ask_honestly(server, len(honest)))
        health_seconds += health.seconds
        for kind, count in crowd.num_done.items():
            done[kind] = done.get(kind, 0) + count
        time.sleep(3)
        memory.append(server.mib())
    statuses = [status for status, _ in honest]
    figures = {
        "cpu_count": os.cpu_count(),
        "load_average_at_the_end": os.getloadavg()[0],
        "seconds": round(time.monotonic() - started),
        "hostile_clients_at_once": 100,
        "hostile_requests": done,
        "honest_requests": {str(status): statuses.count(status) for status in set(statuses)},
        "honest_seconds": {
            "median": round(median([s for _, s in honest]), 2), "max": round(max(s for _, s in honest), 2)
        },
        "health_seconds": {"median": round(median(health_seconds), 3), "max": round(max(health_seconds), 3)},
        "mib_of_server": {
            "before": before, "peak": server.mib("VmHWM"), "after_each_crowd": memory
        },
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if path := os.environ.get("SKINGPT4_SOAK_JSON"):
        Path(path).write_text(json.dumps(figures, indent=1) + "\n")
    assert set(statuses) == {200}
    assert figures["mib_of_server"]["peak"] - before < MAX_MIB
    assert memory[-1] - memory[0] < 200
    assert server.post(question())[0] == 200
