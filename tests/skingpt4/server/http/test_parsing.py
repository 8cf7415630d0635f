"""Large bodies are parsed by other processes: the parser would hold Python's lock, and with it the event loop."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skingpt4.server.http import body as parsing
from skingpt4.server.http.body import LARGE_BODY, Parsers
from skingpt4.server.http.failures import ApiError
from skingpt4.server.http.messages import ConversationLimits
from skingpt4.server.http.server import SWITCH_SECONDS, served
from tests.support import unit_filter
from tests.support.hostile import BODIES, body_of, question

ROOT = Path(__file__).parents[4]
LIMITS = ConversationLimits.of_context(512, 8)


def large(number=1):
    return json.dumps(question(f"question {number}", [bytes([number]) * LARGE_BODY])).encode()


@pytest.fixture
def parsers():
    return Parsers(LIMITS)


@pytest.fixture(scope="module")
def one_for_all():
    return Parsers(LIMITS)


@pytest.fixture
def elsewhere(monkeypatch):
    """Nothing is parsed in this process."""
    monkeypatch.setattr(parsing, "read", None)


def test_a_large_body_is_read_in_another_process(parsers, elsewhere):
    for number in (1, 2):
        (turn,) = parsers.read(bytearray(large(number))).turns
        assert (turn.question, turn.images) == (f"question {number}", (bytes([number]) * LARGE_BODY,))
    assert len(parsers._idle) == 1, "one after the other needs one process"


@pytest.mark.skipif(not unit_filter.POSSIBLE, reason="the filter's numbers are those of Linux on x86-64")
def test_a_large_body_is_read_under_the_shipped_systemd_unit():
    code = (
        "from tests.skingpt4.server.http.test_parsing import Parsers, LIMITS, large; "
        "print(Parsers(LIMITS).read(large()).turns[0].question)"
    )
    command = [sys.executable, "-m", "tests.support.unit_filter", sys.executable, "-c", code]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, timeout=300)
    assert done.stdout == "question 1\n", done.stderr
    assert (
        "SystemCallFilter=~@privileged @resources" in (ROOT / "deploy/systemd/skingpt4@.service").read_text()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_parses_knows_nothing_of_the_server_s_secrets(parsers, monkeypatch):
    monkeypatch.setenv("SKINGPT4_API_KEY", "a key")
    parsers.read(large())
    (parser,) = parsers._idle
    known = Path(f"/proc/{parser._process.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" in known
    assert b"a key" not in known


def test_a_small_one_starts_none(parsers):
    assert parsers.read(json.dumps(question("What?")).encode()).turns[0].question == "What?"
    assert parsers._idle == []


def test_where_pipes_cannot_be_handed_on_it_is_parsed_here(parsers, monkeypatch):
    monkeypatch.setattr(parsing, "ELSEWHERE", False)
    assert parsers.read(large(2)).turns[0].question == "question 2"
    assert parsers._idle == []


@pytest.mark.parametrize("kind", [kind for kind in BODIES if len(body_of(kind)) > LARGE_BODY])
def test_a_large_body_is_refused_in_the_same_words(kind, one_for_all):
    def outcome(read, *arguments):
        try:
            return len(read(body_of(kind), *arguments).images)
        except ApiError as refusal:
            return refusal.to_dict(), refusal.status_code

    assert outcome(one_for_all.read) == outcome(parsing.read, LIMITS)


def test_each_of_many_threads_gets_its_own(parsers, elsewhere):
    with ThreadPoolExecutor(4) as pool:
        turns = [request.turns[0] for request in pool.map(parsers.read, map(large, range(12)))]
    assert [(turn.question, turn.images[0][0]) for turn in turns] == [(f"question {n}", n) for n in range(12)]
    assert 1 <= len(parsers._idle) <= 4


def test_one_that_is_killed_is_replaced(parsers, elsewhere):
    parsers.read(large())
    os.kill(parsers._idle[0]._process.pid, signal.SIGKILL)
    parsers._idle[0]._process.wait()
    with pytest.raises(ApiError, match="try again") as refusal:
        parsers.read(large())
    assert refusal.value.status_code == 503
    assert parsers.read(large(3)).turns[0].question == "question 3"


def test_they_end_with_the_server(parsers):
    parsers.read(large())
    process = parsers._idle.pop()._process  # what ends the server closes its side of the pipe
    assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_they_give_way_to_the_event_loop(parsers):
    parsers.read(large())
    stat = Path(f"/proc/{parsers._idle[0]._process.pid}/stat").read_text().rpartition(")")[2].split()
    own = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert int(stat[16]) == min(19, int(own[16]) + parsing.NICENESS)


def test_a_server_asks_threads_for_the_lock_soon(monkeypatch):
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        with served(lambda scope, receive, send: time.sleep(0)):
            assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        sys.setswitchinterval(before)


def test_nothing_of_the_folder_that_the_server_runs_in_is_imported(tmp_path, monkeypatch, parsers, elsewhere):
    for name in ("anyio", "orjson", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'w').write({name!r})\n")
    monkeypatch.chdir(tmp_path)
    assert parsers.read(large()).turns[0].question == "question 1"
    assert not (tmp_path / "ran").exists()
