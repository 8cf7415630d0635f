"""The folder for uploads: private, in memory where there is room, swept after a kill, and nobody else's ever."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from skingpt4.server import private_folder
from skingpt4.support.errors import UserError

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, tempfile, time
from pathlib import Path
from skingpt4.server import private_folder
private_folder.MEMORY, tempfile.tempdir = Path(sys.argv[1]), sys.argv[2]
with private_folder.private_folder(int(sys.argv[3])) as folder:
    (folder / "John Doe.jpg").write_bytes(b"a picture")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def places(tmp_path, monkeypatch) -> tuple[Path, Path]:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.setattr(private_folder, "MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    return memory, disk


def start(places: tuple[Path, Path], num_bytes: int = 1) -> tuple[subprocess.Popen, Path]:
    command = [sys.executable, "-c", HOLD, *map(str, places), str(num_bytes)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return server, Path(server.stdout.readline().strip())


@pytest.mark.parametrize("num_bytes", [1, 2**60])
def test_the_next_start_sweeps_what_a_kill_left_behind_and_nothing_of_a_running_server(places, num_bytes):
    running, kept = start(places, num_bytes)
    killed, left = start(places, num_bytes)
    try:
        assert {kept.parent, left.parent} == {places[num_bytes > 1]}, "in memory if it fits there"
        assert kept.is_dir(), "the second server did not take the first one's"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "John Doe.jpg").is_file(), "nobody could clean up"
        with private_folder.private_folder(1) as own:
            assert not left.exists()
            assert (kept / "John Doe.jpg").is_file()
            assert stat.S_IMODE(own.stat().st_mode) == 0o700
        assert not own.exists()
    finally:
        for server in (running, killed):
            server.kill()
            server.wait()
            server.stdout.close()


def test_only_what_is_ours_is_swept(places):
    memory, _ = places
    elsewhere = memory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "work").write_text("years of it")
    ours = f"{private_folder.PREFIX}x"
    strangers = [memory / "skingpt4-other", memory / "torch_1", memory / f"{private_folder.PREFIX}open"]
    for folder in strangers:
        folder.mkdir(mode=0o700)
    strangers[-1].chmod(0o755)  # no folder of ours is open to others
    (memory / f"{private_folder.PREFIX}file").write_text("a file")
    (memory / f"{private_folder.PREFIX}link").symlink_to(elsewhere)
    (memory / ours).mkdir(mode=0o700)
    (memory / ours / "link").symlink_to(elsewhere)
    assert private_folder.sweep(memory) == [memory / ours]
    assert not (memory / ours).exists()
    assert all(folder.is_dir() for folder in strangers)
    assert (memory / f"{private_folder.PREFIX}file").is_file()
    assert (elsewhere / "work").read_text() == "years of it", "no link is followed"
    assert private_folder.sweep(memory / "nowhere") == []


def test_folders_of_another_user_are_left_alone(places, monkeypatch):
    memory, _ = places
    (memory / f"{private_folder.PREFIX}x").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert private_folder.sweep(memory) == []


def test_many_servers_that_start_at_once_all_have_a_folder(places):
    folders, gate, failures = [], threading.Barrier(16), []

    def serve() -> None:
        try:
            gate.wait()
            for _ in range(20):
                with private_folder.private_folder(1) as folder:
                    (folder / "x").write_text("x")
                    folders.append(folder)
                    assert (folder / "x").read_text() == "x"
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=serve) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(folders)) == 16 * 20
    assert list(places[0].iterdir()) == list(places[1].iterdir()) == []


def test_a_place_that_knows_no_locks_gets_a_sentence(places, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(private_folder, "acquire", unsupported)
    with pytest.raises(UserError, match="set TMPDIR to"), private_folder.private_folder(1):
        pass
    assert list(places[0].iterdir()) == []


def test_without_memory_it_is_on_disk(places):
    shutil.rmtree(places[0])
    with private_folder.private_folder(1) as folder:
        assert folder.parent == places[1]
