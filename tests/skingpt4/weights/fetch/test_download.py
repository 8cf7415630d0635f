"""Downloads against a local server that breaks off, lies, refuses and forgets."""

import hashlib
import os
import subprocess
import sys
from collections import namedtuple

import pytest

from skingpt4.weights.fetch import download as download_module
from skingpt4.weights.fetch.download import DownloadError, RemoteFile, download, remote_file
from tests.support.local_hub import google_hash, kill_when_grown, serving

CONTENT = bytes(range(256)) * 2000
SIZE = 512_000
HEX = hashlib.sha256(CONTENT).hexdigest()
SHA256 = f"sha256:{HEX}"


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running, patient_downloads):
    for each in (running, running.cdn):
        each.pages.clear()
        each.log.clear()
    return running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "file.bin"


def fetch(server, target, path="/file.bin", size=SIZE, digest=SHA256, **options):
    return download(RemoteFile("file.bin", server.url + path, size, digest), target, **options)


def left(target):
    return sorted(p.name for p in target.parent.iterdir()) if target.parent.exists() else []


def test_plain(server, target):
    server.page("/file.bin", CONTENT)
    assert fetch(server, target) == HEX
    assert target.read_bytes() == CONTENT
    assert left(target) == ["file.bin"], "no part"


@pytest.mark.parametrize("chunked", [False, True])
def test_an_empty_file_and_one_of_unknown_length(server, target, chunked):
    for content in (b"", CONTENT):
        server.page("/file.bin", content, chunked=chunked)
        size = 0 if content == b"" else None
        assert fetch(server, target, size=size, digest=None) == hashlib.sha256(content).hexdigest()
        assert target.read_bytes() == content


def test_broken_off_twice_and_resumed(server, target):
    server.page("/file.bin", CONTENT, breaks=[200_000, 100_000])
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    ranges = [headers.get("range") for headers in server.asked("/file.bin")]
    assert ranges == [None, "bytes=200000-", "bytes=300000-"], "nothing was sent twice"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_without_ranges_starts_over(server, target, chunked):
    server.page("/file.bin", CONTENT, breaks=[200_000, 300_000], ranges=False, chunked=chunked)
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_always_breaking_off_at_the_same_place_ends(server, target):
    server.page("/file.bin", CONTENT, breaks=[200_000] * 50, ranges=False)
    with pytest.raises(DownloadError, match="200,000 bytes are kept"):
        fetch(server, target)
    assert len(server.asked("/file.bin")) < 10


def test_always_breaking_off_ends_and_the_next_call_continues(server, target):
    page = server.page("/file.bin", CONTENT, breaks=[700, *[0] * 50])
    with pytest.raises(DownloadError, match=r"cannot be reached or broke off .*700 bytes are kept"):
        fetch(server, target)
    assert len(server.asked("/file.bin")) < 10
    assert left(target) == ["file.bin.part"]
    page.breaks.clear()
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.asked("/file.bin")[-1]["range"] == "bytes=700-"


@pytest.mark.parametrize("known", [{"digest": None}, {"size": None}])
def test_without_size_or_checksum_nothing_is_continued(server, target, known):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(b"of an older file")
    server.page("/file.bin", CONTENT)
    fetch(server, target, **known)
    assert target.read_bytes() == CONTENT
    assert "range" not in server.asked("/file.bin")[-1]


def test_a_file_that_changed_meanwhile_is_not_mixed(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(b"another beginning")
    server.page("/file.bin", CONTENT)
    with pytest.raises(DownloadError, match="was deleted, run it again"):
        fetch(server, target)
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT)
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert not server.log


def test_a_part_that_is_too_long_is_dropped(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT + b"more")
    server.page("/file.bin", CONTENT)
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_new(server, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    server.page("/file.bin", CONTENT)
    with pytest.raises(
        DownloadError, match=r"came with sha256:.* instead of sha256:0000.*was deleted, run it again"
    ):
        fetch(server, target, digest="sha256:" + "0" * 64)
    assert left(target) == ["file.bin"]
    assert target.read_bytes() == b"old"


def test_md5_and_git_blob_id(server, target):
    server.page("/file.bin", b"hello\n")
    known = "git-sha1:ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object of these six bytes
    for digest in (known, "md5:" + hashlib.md5(b"hello\n").hexdigest()):
        assert fetch(server, target, size=6, digest=digest) == hashlib.sha256(b"hello\n").hexdigest()
    with pytest.raises(DownloadError, match="came with git-sha1:ce01"):
        fetch(server, target, size=6, digest="git-sha1:" + "0" * 40)


def test_a_server_is_asked_for_size_and_checksum(server):
    server.page("/file.bin", CONTENT, headers=google_hash(CONTENT))
    url = f"{server.url}/file.bin"
    md5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
    assert remote_file(url, "file.bin") == RemoteFile("file.bin", url, len(CONTENT), md5)
    assert remote_file(url, "file.bin", HEX).digest == SHA256, "a published one is preferred"
    server.page("/file.bin", CONTENT, chunked=True)
    assert remote_file(url, "file.bin") == RemoteFile("file.bin", url)
    assert {method for method, _, _ in server.log} == {"HEAD"}
    with pytest.raises(DownloadError, match="answered 404"):
        remote_file(f"{server.url}/gone", "gone")
    for nowhere in ("http://127.0.0.1:9/x", "ftp://127.0.0.1/x", "not a url"):
        with pytest.raises(DownloadError, match="cannot be reached"):
            remote_file(nowhere, "x")


@pytest.mark.parametrize(
    ("length", "expected", "match"),
    [
        (300_000, 512_000, "sent 300,000 bytes in place of 512,000"),
        (600_000, 600_000, "broke off .*512,000 bytes are kept"),
    ],
)
def test_a_length_that_lies(server, target, length, expected, match):
    server.page("/file.bin", CONTENT, length=length, ranges=False)
    with pytest.raises(DownloadError, match=match):
        fetch(server, target, size=expected)
    assert not target.exists()


def test_a_busy_server_is_asked_again(server, target):
    server.page("/file.bin", CONTENT, statuses=[503, 429, 500])
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    server.page("/file.bin", CONTENT, statuses=[503] * 99)
    with pytest.raises(DownloadError, match="the server answered 503 for http://127"):
        fetch(server, target)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_names_its_status(server, target, status):
    server.page("/file.bin", b"no", status=status)
    with pytest.raises(DownloadError, match=rf"the server answered {status} for http://127"):
        fetch(server, target)
    assert len(server.asked("/file.bin")) == 1
    assert left(target) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "ftp://127.0.0.1/x", "not a url"])
def test_nobody_there(tmp_path, server, url):
    with pytest.raises(DownloadError, match="cannot be reached"):
        download(RemoteFile("x", url), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_token_never_reaches_another_host(server, target):
    server.cdn.page("/elsewhere", CONTENT)
    server.page("/file.bin", status=302, headers={"location": f"{server.cdn.url}/elsewhere"})
    fetch(server, target, headers={"authorization": "Bearer secret"})
    assert target.read_bytes() == CONTENT
    assert server.asked("/file.bin")[0]["authorization"] == "Bearer secret"
    assert "authorization" not in server.cdn.asked("/elsewhere")[0]


def test_redirects_in_a_circle(server, target):
    server.page("/file.bin", status=302, headers={"location": "/file.bin"})
    with pytest.raises(DownloadError, match="redirects"):
        fetch(server, target)


@pytest.mark.parametrize("name", download_module.OFFLINE_VARIABLES)
def test_offline_mode(server, target, monkeypatch, name):
    server.page("/file.bin", CONTENT)
    monkeypatch.setenv(name, "1")
    with pytest.raises(DownloadError, match=f"{name} is set"):
        fetch(server, target)
    with pytest.raises(DownloadError, match=f"{name} is set"):
        remote_file(f"{server.url}/file.bin", "file.bin")
    assert not server.log
    monkeypatch.setenv(name, "0")
    fetch(server, target)


def test_space_is_required_with_a_margin(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage(1, 1, 1_000_000))
    with pytest.raises(DownloadError, match=r"it needs 68 MB in .*, 1 MB are free; make room"):
        download_module.require_space(tmp_path / "new" / "folder", 1_000_000, "it")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("content", [CONTENT, b"small"])
def test_a_disk_that_fills_up(server, target, content):
    target.parent.mkdir()
    target.with_name("file.bin.part").symlink_to("/dev/full")
    server.page("/file.bin", content)
    with pytest.raises(
        DownloadError, match=r"cannot be written \(No space left on device\); check the free space"
    ):
        fetch(server, target, size=len(content))
    assert not target.exists()


def test_killed_and_resumed(server, target):
    """A real process, killed without warning in the middle."""
    page = server.page("/file.bin", CONTENT, stays_at=300_000)
    code = (
        "import sys, pathlib; from skingpt4.weights.fetch import download as d; d._TIMEOUT_SECONDS = 300; "
        "d.download(d.RemoteFile('file.bin', sys.argv[1], 512_000, sys.argv[2]), pathlib.Path(sys.argv[3]))"
    )
    arguments = [f"{server.url}/file.bin", SHA256, str(target)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    kept = kill_when_grown(process, target.with_name("file.bin.part"), 100_000)
    assert 100_000 < kept < len(CONTENT)
    assert not target.exists()
    page.stays_at = None
    page.go_on.set()
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.asked("/file.bin")[-1]["range"] == f"bytes={kept}-"
