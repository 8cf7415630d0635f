"""Clients that are slow, leave, flood or ask for too much harm nobody else: not the server, not its honest clients.

The suite asks a server in this process, and looks at no clock. `make soak` measures one in a process of its own.
"""

import time

import pytest
import torch

from skingpt4.model.build import build, build_encoder
from skingpt4.server.http.answering import Answerer
from skingpt4.server.http.routes import Api, make_app
from skingpt4.server.http.server import served
from tests.support import soak
from tests.support.hostile import HOSTILE, question
from tests.support.http_clients import Crowd, Health, Server, ServerProcess, ask_honestly
from tests.support.tiny import tiny_config

MAX_MIB = 2048  # above the model
IDENTITY = {"checkpoint": "run/1", "sha256": "ab" * 32, "demonstration": True, "caution": ""}


def median(values):
    return sorted(values)[len(values) // 2]


def figures_of(healths):
    seconds = [value for health in healths for value in health.seconds]
    failures = [failure for health in healths for failure in health.failures]
    return {"n": len(seconds), "median": median(seconds), "max": max(seconds), "failures": failures}


@pytest.mark.acceptance
def test_honest_clients_are_answered_among_hostile_ones_of_every_kind(tmp_path):
    config = tiny_config(tmp_path)
    api = Api(Answerer(build(config, torch.device("cpu"), build_encoder(config)), config, IDENTITY))
    with served(make_app(api)) as url:
        server = Server(url)
        with Crowd(url, len(HOSTILE)) as crowd:
            assert ask_honestly(server, tries=50)[0] == 200  # a soak asks for a minute
            server.get_health(timeout=300)
        assert set(crowd.num_done) == set(HOSTILE)
        deadline = time.monotonic() + 120
        while api.bodies.free < api.bodies.capacity or api.num_running:  # all is given back
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask_honestly(server)[0] == 200


@pytest.fixture
def server(tmp_path):
    with ServerProcess(tmp_path) as running:
        assert ask_honestly(running)[0] == 200
        yield running


@pytest.mark.soak
def test_a_hundred_hostile_clients_of_all_kinds(server):
    before, honest = server.mib(), []
    server.forget_peak()
    seconds = soak.scaled(60, 10)
    with Crowd(server.url, 100) as crowd, Health(server) as health:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            honest.append(ask_honestly(server, len(honest)))
    peak = server.mib("VmHWM") - before
    soak.write(
        "hostile_100", sum(crowd.num_done.values()), hostile_clients_at_once=100, seconds=seconds,
        hostile_requests=crowd.num_done, honest_requests=len(honest),
        honest_answered=sum(status == 200 for status, _ in honest),
        honest_seconds={"median": median([s for _, s in honest]), "max": max(s for _, s in honest)},
        health=figures_of([health]), mib_above_the_model=peak,
    )  # fmt: skip
    assert {status for status, _ in honest} == {200}
    assert health.failures == []
    assert max(health.seconds) < 1
    assert peak < MAX_MIB


@pytest.mark.soak
def test_two_thousand_requests_leave_the_memory_flat(server):
    num_requests = soak.scaled(2000, 100)
    before, memory, honest, done, healths = server.mib(), [], [], {}, []
    server.forget_peak()
    while sum(done.values()) + len(honest) < num_requests or len(memory) < 3:
        with Crowd(server.url, 100) as crowd, Health(server) as health:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                honest.append(ask_honestly(server, len(honest)))
        healths.append(health)
        for kind, count in crowd.num_done.items():
            done[kind] = done.get(kind, 0) + count
        time.sleep(3)
        memory.append(server.mib())
    peak = server.mib("VmHWM") - before
    soak.write(
        "hostile_2000", sum(done.values()) + len(honest), hostile_clients_at_once=100, hostile_requests=done,
        honest_requests=len(honest), honest_answered=sum(status == 200 for status, _ in honest),
        honest_seconds={"median": median([s for _, s in honest]), "max": max(s for _, s in honest)},
        health=figures_of(healths),
        mib_of_server_before=before, mib_above_the_model=peak, mib_after_each_crowd=memory,
        mib_grown=memory[-1] - memory[0],
    )  # fmt: skip
    assert {status for status, _ in honest} == {200}
    assert [failure for health in healths for failure in health.failures] == []
    assert peak < MAX_MIB
    assert memory[-1] - memory[0] < 200
    assert server.post(question())[0] == 200
