"""Downloads against a local server that breaks off, lies, refuses and forgets."""

import fcntl
import hashlib
import os
import subprocess
import sys
from collections import namedtuple

import httpx
import pytest

from skingpt4.weights.fetch import download as download_module
from skingpt4.weights.fetch.download import DownloadError, download, new_hash, offline
from tests.support.local_hub import google_hash, kill_when_grown, serving

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
FAST: dict = {"backoff_seconds": 0.001, "timeout_seconds": 300}  # nothing waits that long, however busy it is


@pytest.fixture(scope="module")
def running():
    # One client for most tests: each new one reads the system's certificates, a third of a second.
    with serving() as server, httpx.Client(follow_redirects=True, timeout=300) as client:
        FAST["client"] = client
        yield server


@pytest.fixture
def server(running, monkeypatch):
    for name in download_module.OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for each in (running, running.cdn):
        each.pages.clear()
        each.log.clear()
    return running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "file.bin"


def fetch(server, target, path="/file.bin", **options):
    return download(server.url + path, target, **(FAST | options))


def left(target):
    return sorted(p.name for p in target.parent.iterdir()) if target.parent.exists() else []


def test_plain(server, target):
    server.page("/file.bin", CONTENT, headers={"content-type": "image/png"})
    done = fetch(server, target, size=len(CONTENT), digest=SHA256, client=None)
    assert target.read_bytes() == CONTENT
    assert (done.path, done.size, f"sha256:{done.sha256}") == (target, len(CONTENT), SHA256)
    assert (done.checked, done.content_type) == (SHA256, "image/png")
    assert left(target) == ["file.bin"], "no part, no notes"


@pytest.mark.parametrize("chunked", [False, True])
def test_an_empty_file_and_one_of_unknown_length(server, target, chunked):
    for content in (b"", CONTENT):
        server.page("/file.bin", content, chunked=chunked)
        assert fetch(server, target).size == len(content)
        assert target.read_bytes() == content


def test_broken_off_twice_and_resumed(server, target):
    server.page("/file.bin", CONTENT, breaks=[200_000, 100_000])
    fetch(server, target, digest=SHA256)
    assert target.read_bytes() == CONTENT
    ranges = [headers.get("range") for headers in server.asked("/file.bin")]
    assert ranges == [None, "bytes=200000-", "bytes=300000-"], "nothing was sent twice"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_without_ranges_starts_over(server, target, chunked):
    server.page("/file.bin", CONTENT, breaks=[200_000, 300_000], ranges=False, chunked=chunked)
    fetch(server, target, digest=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_few_bytes_are_kept_too(server, target):
    server.page("/file.bin", CONTENT, breaks=[700, 0])
    with pytest.raises(DownloadError, match="700 bytes are kept"):
        fetch(server, target, attempts=1)
    fetch(server, target)
    assert server.asked("/file.bin")[-1]["range"] == "bytes=700-"


def test_always_breaking_off_at_the_same_place_ends(server, target):
    server.page("/file.bin", CONTENT, breaks=[200_000] * 50, ranges=False)
    with pytest.raises(
        DownloadError, match=r"127\.0\.0\.1 cannot be reached or broke off .*200,000 bytes are kept"
    ):
        fetch(server, target, digest=SHA256, attempts=3)
    assert len(server.asked("/file.bin")) == 4
    assert left(target) == ["file.bin.part", "file.bin.part.json"]


def test_the_next_call_goes_on(server, target):
    page = server.page("/file.bin", CONTENT, breaks=[200_000, 0, 0, 0])
    with pytest.raises(DownloadError, match="200,000 bytes are kept"):
        fetch(server, target, attempts=3)
    page.breaks.clear()
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    last = server.asked("/file.bin")[-1]
    assert (last["range"], last["if-range"]) == ("bytes=200000-", '"1"')


def test_a_file_that_changed_meanwhile_is_fetched_whole(server, target):
    server.page("/file.bin", CONTENT, breaks=[200_000, 0])
    with pytest.raises(DownloadError):
        fetch(server, target, attempts=1)
    server.page("/file.bin", CONTENT[::-1], etag='"2"')
    fetch(server, target)
    assert target.read_bytes() == CONTENT[::-1]


def test_without_validator_or_checksum_nothing_is_continued(server, target):
    server.page("/file.bin", CONTENT, breaks=[200_000, 0], etag=None)
    with pytest.raises(DownloadError):
        fetch(server, target, attempts=1)
    server.page("/file.bin", CONTENT[::-1], etag=None)
    fetch(server, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert "range" not in server.asked("/file.bin")[-1]


def test_a_complete_part_needs_no_request(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT)
    fetch(server, target, size=len(CONTENT), digest=SHA256)
    assert target.read_bytes() == CONTENT
    assert not server.log


@pytest.mark.parametrize("excess", [b"", b"more"])
def test_a_part_that_is_too_long_is_dropped(server, target, excess):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT + excess)
    server.page("/file.bin", CONTENT)
    fetch(server, target, digest=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, target):
    server.page("/file.bin", CONTENT)
    with pytest.raises(
        DownloadError, match=r"came with sha256:.* instead of sha256:0000.*was deleted, run it again"
    ):
        fetch(server, target, digest="sha256:" + "0" * 64)
    assert left(target) == []


def test_the_servers_own_checksum_is_verified(server, target):
    server.page("/file.bin", CONTENT, headers=google_hash(CONTENT))
    assert fetch(server, target).checked == "md5:" + hashlib.md5(CONTENT).hexdigest()
    server.page("/file.bin", CONTENT, headers=google_hash(b"other"))
    with pytest.raises(DownloadError, match=r"came with md5:"):
        fetch(server, target)
    assert target.read_bytes() == CONTENT, "the old file stays"


def test_an_announced_checksum_that_contradicts_ours_stops_before_a_byte(server, target):
    server.page("/file.bin", CONTENT, headers={"x-linked-etag": f'"{"1" * 64}"'})
    with pytest.raises(DownloadError, match=r"announces sha256:1111.*was expected"):
        fetch(server, target, digest=SHA256)
    assert left(target) == []


def test_git_blob_id(server, target):
    server.page("/file.bin", b"hello\n")
    known = "git-sha1:ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object of these six bytes
    assert fetch(server, target, size=6, digest=known).checked == known
    with pytest.raises(ValueError, match="'crc' cannot be computed"):
        new_hash("crc", 6)


@pytest.mark.parametrize(
    ("page", "match"),
    [
        ({"length": 300_000}, r"offers 300,000 bytes, 512,000 were expected"),
        ({"length": 600_000}, r"offers 600,000 bytes, 512,000 were expected"),
        ({"chunked": True, "breaks": [300_000] * 9, "ranges": False}, r"broke off"),
    ],
)
def test_a_length_that_lies_with_the_size_known(server, target, page, match):
    server.page("/file.bin", CONTENT, **page)
    with pytest.raises(DownloadError, match=match):
        fetch(server, target, size=len(CONTENT), attempts=2)
    assert not target.exists()


def test_a_length_that_lies_with_the_checksum_known(server, target):
    server.page("/file.bin", CONTENT, length=300_000)
    with pytest.raises(DownloadError, match="came with"):
        fetch(server, target, digest=SHA256)
    assert left(target) == []


def test_busy_servers_are_asked_again(server, target):
    server.page("/file.bin", CONTENT, statuses=[503, 429, 500])
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    server.page("/file.bin", CONTENT, statuses=[503] * 9)
    with pytest.raises(DownloadError, match="answered 503"):
        fetch(server, target, attempts=3)


def test_retry_after_is_heard(server, target, monkeypatch):
    slept = []
    monkeypatch.setattr(download_module.time, "sleep", slept.append)
    server.page("/file.bin", CONTENT, statuses=[429], headers={"retry-after": "7"})
    fetch(server, target)
    assert slept == [7.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_and_carries_its_status(server, target, status):
    server.page("/file.bin", b"no", status=status, headers={"x-error-code": "Why"})
    with pytest.raises(DownloadError, match=rf"127\.0\.0\.1 answered {status}") as caught:
        fetch(server, target)
    assert (caught.value.status_code, caught.value.headers["x-error-code"]) == (status, "Why")
    assert len(server.asked("/file.bin")) == 1
    assert left(target) == []


def test_nobody_there(tmp_path, monkeypatch, server):
    with pytest.raises(DownloadError, match="cannot be reached"):
        download("http://127.0.0.1:9/x", tmp_path / "x", attempts=2, backoff_seconds=0.001)
    for url in ("ftp://127.0.0.1/x", "not a url"):
        with pytest.raises(DownloadError):
            download(url, tmp_path / "x", attempts=2, backoff_seconds=0.001)
    assert list(tmp_path.iterdir()) == []


def test_the_token_never_reaches_another_host(server, target):
    server.cdn.page("/elsewhere", CONTENT)
    server.page("/file.bin", status=302, headers={"location": f"{server.cdn.url}/elsewhere"})
    fetch(server, target, headers={"authorization": "Bearer secret"}, client=None)
    assert target.read_bytes() == CONTENT
    assert server.asked("/file.bin")[0]["authorization"] == "Bearer secret"
    assert "authorization" not in server.cdn.asked("/elsewhere")[0]


def test_redirects_in_a_circle(server, target):
    server.page("/file.bin", status=302, headers={"location": "/file.bin"})
    with pytest.raises(DownloadError, match="cannot be followed"):
        fetch(server, target)


@pytest.mark.parametrize("name", download_module.OFFLINE_VARIABLES)
def test_offline_mode(server, target, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert offline() == name
    with pytest.raises(DownloadError, match=f"{name} is set"):
        fetch(server, target)
    assert not server.log
    monkeypatch.setenv(name, "0")
    assert offline() is None


def test_no_space_is_seen_first(server, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage(1, 1, len(CONTENT)))
    server.page("/file.bin", CONTENT)
    with pytest.raises(DownloadError, match=r"file\.bin needs 68 MB in .*, 1 MB are free; make room"):
        fetch(server, target)
    assert left(target) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("content", [CONTENT, b"small"])
def test_a_disk_that_fills_up(server, target, content):
    target.parent.mkdir()
    target.with_name("file.bin.part").symlink_to("/dev/full")
    server.page("/file.bin", content)
    with pytest.raises(
        DownloadError, match=r"cannot be written \(No space left on device\); check the free space"
    ):
        fetch(server, target)
    assert not target.exists()


def test_too_long(server, target):
    for chunked in (False, True):
        server.page("/file.bin", CONTENT, chunked=chunked)
        with pytest.raises(DownloadError, match="100,000"):
            fetch(server, target, max_bytes=100_000)
        assert left(target) == []


def test_compressed_is_refused(server, target):
    server.page("/file.bin", CONTENT, headers={"content-encoding": "gzip"})
    with pytest.raises(DownloadError, match="comes compressed"):
        fetch(server, target)


def test_two_at_a_time(server, target):
    target.parent.mkdir()
    with target.with_name("file.bin.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is downloading it"):
            fetch(server, target)


def test_a_client_of_ones_own(server, tmp_path):
    with httpx.Client(follow_redirects=True) as client:
        for n in range(3):
            server.page(f"/{n}", b"%d" % n)
            fetch(server, tmp_path / str(n), f"/{n}", client=client)
        assert not client.is_closed
    assert (tmp_path / "2").read_bytes() == b"2"


def test_killed_and_resumed(server, target):
    """A real process, killed without warning in the middle."""
    page = server.page("/file.bin", CONTENT, stays_at=300_000)
    code = (
        "import sys; from skingpt4.weights.fetch.download import download; "
        "download(*sys.argv[1:], timeout_seconds=300)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/file.bin", str(target)])
    kept = kill_when_grown(process, target.with_name("file.bin.part"), 100_000)
    assert 100_000 < kept < len(CONTENT)
    assert not target.exists()
    page.stays_at = None
    page.go_on.set()
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.asked("/file.bin")[-1]["range"] == f"bytes={kept}-"
