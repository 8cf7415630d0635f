"""Servers of the HTTP API and their clients: honest ones here, hostile ones in a process of their own."""

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.hostile import PATH, photo, question

ROOT = Path(__file__).parents[2]


class Server:
    """What clients do with a server."""

    def __init__(self, url):
        self.url = url

    def get_health(self, timeout=60):
        """Seconds until /health answered."""
        started = time.monotonic()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/health", timeout=timeout) as answer:
            assert json.load(answer)["status"] == "ok"
        return time.monotonic() - started

    def post(self, body, timeout=600):
        """(status, parsed answer)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + PATH, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=timeout
            ) as r:
                return r.status, json.load(r)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


class ServerProcess(Server):
    """`tests.support.http_server` as a context manager; knows its address and memory."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        command = [sys.executable, "-m", "tests.support.http_server", str(self.folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=60)
        self.process.kill()

    def mib(self, field="VmRSS"):
        """Memory of the server with the processes that it began: VmRSS now, VmHWM at most since `forget_peak`."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self._pids()]
        return sum(int(text.partition(f"{field}:")[2].split()[0]) for text in texts) // 1024

    def _pids(self):
        main = self.process.pid
        children = [task.read_text().split() for task in Path(f"/proc/{main}/task").glob("*/children")]
        return [main, *(int(pid) for pids in children for pid in pids)]

    def forget_peak(self):
        for pid in self._pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")


class Health:
    """Asks for /health again and again in a thread, as a context manager: seconds of each answer, and failures."""

    def __init__(self, server):
        self.server, self.over, self.seconds, self.failures = server, threading.Event(), [], []
        self.thread = threading.Thread(target=self._go_on, daemon=True)

    def _go_on(self):
        while not self.over.wait(0.05):
            try:
                self.seconds.append(self.server.get_health())
            except OSError as error:
                self.failures.append(repr(error))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Crowd:
    """Hostile clients as a context manager; `num_done` says in the end how often each kind came."""

    def __init__(self, url, count, *kinds):
        host, port = url.removeprefix("http://").split(":")
        self.command = [sys.executable, "-m", "tests.support.hostile", host, port, str(count), *kinds]

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout.readline() == "begun\n"
        return self

    def __exit__(self, *_):
        out, _ = self.process.communicate(timeout=120)
        self.num_done = json.loads(out)


def ask_honestly(server, seed=1, tries=3):
    """The status after as many tries as OpenAI's client makes, and the seconds they took."""
    started = time.monotonic()
    for _ in range(tries):
        status, _answer = server.post(question(pictures=[photo(seed)]))
        if status not in (429, 503):
            break
        time.sleep(2)
    return status, time.monotonic() - started
