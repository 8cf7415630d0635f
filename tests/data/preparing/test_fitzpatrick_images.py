import asyncio
import csv
import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from data import prepare
from data.preparing import fitzpatrick_images, picture_download
from data.preparing.picture_download import ListedImage, RequestLimits, run

# Nothing here may run out of time because the machine is busy, except where that is what is tested.
PATIENT = RequestLimits(
    parallel=4, per_host=4, rate=1000.0, tries=3, timeout_seconds=120, deadline_seconds=600
)


def picture(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, shade, 120)).save(buffer, "JPEG", comment=str(shade))
    return buffer.getvalue()


def md5(content):
    return hashlib.md5(content).hexdigest()


class Server:
    """A server of made pictures with every fault that a real one has; counts what is asked of it."""

    def __init__(self):
        self.asked = Counter()
        self.over = threading.Event()  # ends all that stalls
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                _, kind, shade = self.path.split("/")[:3]
                with lock:
                    server.asked[self.path] += 1
                    attempt = server.asked[self.path]
                with suppress(OSError):
                    self.answer(kind, picture(int(shade)), attempt)

            def answer(self, kind, content, attempt):
                if kind == "redirect":
                    return self.send(302, b"", Location=self.path.replace("redirect", "good"))
                if kind == "loop":
                    return self.send(302, b"", Location=self.path)
                if kind in ("gone", "forbidden"):
                    return self.send({"gone": 404, "forbidden": 403}[kind], b"no")
                if kind == "page":
                    return self.send(200, b"<html>moved to our new site</html>")
                if kind == "changed":
                    return self.send(200, picture(255))
                if kind == "held" and len(server.asked) > 6:
                    server.over.wait()
                if kind == "stalls" or (kind == "stalls-once" and attempt == 1):
                    self.head(200, len(content))
                    self.wfile.write(content[:50])
                    self.wfile.flush()
                    server.over.wait()
                    self.close_connection = True
                    return None
                if kind == "truncates" or (kind == "truncates-once" and attempt == 1):
                    self.head(200, len(content))
                    self.wfile.write(content[:100])
                    self.close_connection = True
                    return None
                if kind == "busy-once" and attempt == 1:
                    return self.send(503, b"", **{"Retry-After": "0"})
                if kind == "broken":
                    return self.send(500, b"")
                return self.send(200, content)

            def head(self, code, length, **headers):
                self.send_response(code)
                self.send_header("Content-Length", str(length))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def send(self, code, content, **headers):
                self.head(code, len(content), **headers)
                self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def want(self, kind, shade):
        return ListedImage(md5(picture(shade)), f"{self.url}/{kind}/{shade}/x.jpg")


@pytest.fixture
def server():
    made = Server()
    yield made
    made.over.set()
    made.http.shutdown()
    made.http.server_close()


def test_every_fault_has_its_outcome_and_only_whole_right_pictures_are_kept(server, tmp_path):
    kinds = {
        "good": "kept", "redirect": "kept", "busy-once": "kept", "truncates-once": "kept", "gone": "gone",
        "forbidden": "refused", "page": "no picture", "changed": "changed", "truncates": "unreachable",
        "broken": "unreachable", "loop": "unreachable",
    }  # fmt: skip
    images = {kind: server.want(kind, 10 * number) for number, kind in enumerate(kinds)}
    outcomes = {}
    counts = run(images.values(), tmp_path, PATIENT, on_outcome=lambda o: outcomes.update({o.md5: o}))
    assert {kind: outcomes[item.md5].status for kind, item in images.items()} == kinds
    assert counts == Counter(kinds.values())
    for kind, item in images.items():
        file = picture_download.target(tmp_path, item.md5)
        assert file.is_file() == (kinds[kind] == "kept")
        assert not file.is_file() or md5(file.read_bytes()) == item.md5
    assert (tmp_path / "changed" / f"{images['changed'].md5}.jpg").is_file()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"timeout_seconds": 0.2}, "no answer within 0.2"), ({"deadline_seconds": 0.2}, "incomplete after 0.2")],
)
def test_a_server_that_stalls_is_left(server, tmp_path, change, reason):
    outcomes = []
    run([server.want("stalls", 0)], tmp_path, replace(PATIENT, **change), on_outcome=outcomes.append)
    assert [(outcome.status, outcome.detail) for outcome in outcomes] == [
        ("unreachable", f"{reason} seconds")
    ]
    assert not list(tmp_path.rglob("*.jpg"))
    assert not list(tmp_path.glob(".*"))


def test_a_server_that_stalled_once_is_asked_again(server, tmp_path):
    limits = replace(PATIENT, timeout_seconds=0.5, tries=200)  # a busy machine misses half a second, too
    assert run([server.want("stalls-once", 0)], tmp_path, limits) == {"kept": 1}
    assert server.asked.total() > 1


def test_a_second_run_asks_only_for_what_may_have_come_back(server, tmp_path):
    images = [
        server.want("good", 0),
        server.want("gone", 10),
        server.want("broken", 20),
        ListedImage("f" * 32, ""),
    ]
    run(images, tmp_path, PATIENT)
    server.asked.clear()
    assert run(images, tmp_path, PATIENT) == {"present": 1, "gone": 1, "unreachable": 1, "no url": 1}
    assert [path.split("/")[1] for path in server.asked] == ["broken"]
    server.asked.clear()
    run(images, tmp_path, PATIENT, ask_again=True)
    assert {path.split("/")[1] for path in server.asked} == {"broken", "gone"}


def test_a_picture_listed_twice_is_asked_for_once(server, tmp_path):
    assert run([server.want("good", 0)] * 3, tmp_path, PATIENT) == {"kept": 1, "repeated": 2}
    assert server.asked.total() == 1


def test_a_full_disk_stops_with_a_sentence_and_keeps_what_is_whole(server, tmp_path, monkeypatch):
    run([server.want("good", 0)], tmp_path, PATIENT)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(picture_download.os, "replace", full)
    with pytest.raises(picture_download.DownloadError, match="No space left on device"):
        run([server.want("good", n) for n in range(10)], tmp_path, PATIENT)
    assert [file.stem for file in tmp_path.glob("*.jpg")] == [server.want("good", 0).md5]
    assert not list(tmp_path.glob(".*.part"))


def test_few_pictures_of_a_host_are_on_their_way_at_once(server, tmp_path, monkeypatch):
    inside, most, real = 0, 0, picture_download.request_image

    async def counted(*arguments):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            return await real(*arguments)
        finally:
            inside -= 1

    monkeypatch.setattr(picture_download, "request_image", counted)
    limits = replace(PATIENT, parallel=8, per_host=2)
    assert run([server.want("good", n) for n in range(12)], tmp_path, limits) == {"kept": 12}
    assert most == 2


def test_one_host_is_asked_at_a_bounded_rate(monkeypatch):
    """By a clock of the test's own, which stands still unless somebody sleeps."""
    now, asked_at = 100.0, []

    async def sleep(seconds):
        nonlocal now
        now += max(0.0, seconds)

    async def ask(host):
        async with host.turn(rate=25.0):
            asked_at.append(now)
            if len(asked_at) == 3:
                host.pause(7.0)  # as a server may ask for

    async def ask_often():
        host = picture_download.Host(asyncio.Semaphore(2))
        await asyncio.gather(*(ask(host) for _ in range(6)))

    monkeypatch.setattr(picture_download, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(picture_download, "time", SimpleNamespace(monotonic=lambda: now))
    asyncio.run(ask_often())
    gaps = [b - a for a, b in pairwise(asked_at)]
    assert gaps == pytest.approx([0.04, 0.04, 7.0, 0.04, 0.04])


def write_csv(path, rows, header=("md5hash", "fitzpatrick_scale", "label", "url")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def command(*arguments):
    return prepare.main(["fitzpatrick17k-images", *map(str, arguments)])


@pytest.mark.parametrize("first", [True, False])
def test_the_command_reads_both_headers_and_reports_what_is_gone(server, tmp_path, capsys, first):
    items = [server.want("good", 0), server.want("gone", 10), ListedImage("e" * 32, "")]
    rows = [[i.md5, 3, "psoriasis", i.url] for i in items] + [["../etc", 3, "psoriasis", "x"]]
    if first:  # the first release: an unnamed index, and 'fitzpatrick'
        rows = [[n, *row] for n, row in enumerate(rows)]
        path = write_csv(tmp_path / "f.csv", rows, ("", "md5hash", "fitzpatrick", "label", "url"))
    else:
        path = write_csv(tmp_path / "f.csv", rows)
    assert command(path, "--out-dir", tmp_path / "out", "--rate", 1000) == 0
    out = capsys.readouterr().out
    assert "1  kept" in out
    assert "md5hash is '../etc'" in out
    with (tmp_path / "out" / "missing.csv").open() as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"gone", "no url"}


def test_only_what_skincon_annotates(server, tmp_path):
    items = [server.want("good", n) for n in range(4)]
    path = write_csv(tmp_path / "f.csv", [[i.md5, 1, "acne", i.url] for i in items])
    only = tmp_path / "annotations.csv"
    only.write_text(f",ImageID,Vesicle\n0,{items[2].md5}.jpg,1\n")
    assert command(path, "--only", only, "--out-dir", tmp_path / "out", "--rate", 1000) == 0
    assert [file.stem for file in (tmp_path / "out").glob("*.jpg")] == [items[2].md5]


def test_a_dry_run_asks_nobody(server, tmp_path, capsys):
    path = write_csv(tmp_path / "f.csv", [[i.md5, 1, "acne", i.url] for i in [server.want("good", 1)]])
    assert command(path, "--out-dir", tmp_path / "out", "--dry-run") == 0
    assert "1  127.0.0.1" in capsys.readouterr().out
    assert not server.asked
    assert not (tmp_path / "out").exists()


def test_errors_are_one_sentence(server, tmp_path, capsys):
    path = write_csv(tmp_path / "f.csv", [["a" * 32, 1, "acne", f"{server.url}/gone/1/x"]])
    assert command(path, "--out-dir", tmp_path / "out", "--rate", 1000) == 1
    assert "no picture came" in capsys.readouterr().err
    assert command(path, "--out-dir", tmp_path / "out", "--rate", 0) == 1
    assert "must be above 0" in capsys.readouterr().err
    assert command(path, "--out-dir", path) == 1
    assert "cannot be made a folder (File exists)" in capsys.readouterr().err
    other = write_csv(tmp_path / "other.csv", [["x", "y"]], ("md5", "link"))
    assert command(other, "--out-dir", tmp_path / "new") == 1
    assert "'md5hash'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_stopped_run_leaves_the_list_of_what_is_missing_as_it_was(server, tmp_path, monkeypatch):
    out = tmp_path / "out"
    items = [server.want("gone", 0), server.want("good", 1)]
    path = write_csv(tmp_path / "f.csv", [[i.md5, 1, "acne", i.url] for i in items])
    assert command(path, "--out-dir", out, "--rate", 1000) == 0
    before = (out / "missing.csv").read_bytes()
    assert items[0].md5.encode() in before

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitzpatrick_images, "run", stop)
    assert command(path, "--out-dir", out, "--rate", 1000) == 130
    assert (out / "missing.csv").read_bytes() == before
    assert not list(out.glob(".*"))


def test_a_killed_run_goes_on_without_asking_twice(server, tmp_path):
    items = [server.want("held", n) for n in range(30)]  # after a few the server waits: no run is too fast
    path = write_csv(tmp_path / "f.csv", [[i.md5, 1, "acne", i.url] for i in items])
    arguments = [path, "--out-dir", tmp_path / "out", "--rate", "1000", "--per-host", "2"]
    root = Path(__file__).parents[3]
    whole = [sys.executable, "-m", "data.prepare", "fitzpatrick17k-images", *map(str, arguments)]
    process = subprocess.Popen(whole, cwd=root, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "out").glob("*.jpg"))) < 4:
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {file.stem for file in (tmp_path / "out").glob("*.jpg")}
    assert all(md5((tmp_path / "out" / f"{stem}.jpg").read_bytes()) == stem for stem in there)
    server.over.set()
    server.asked.clear()
    assert command(*arguments) == 0
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 30
    asked = {f"{server.url}{path}" for path in server.asked}
    assert asked == {item.url for item in items if item.md5 not in there}
    assert not list((tmp_path / "out").glob(".*.part"))
