"""Plain folders and tar archives are read through one function; archives are indexed, not unpacked."""

import io
import multiprocessing
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from skingpt4.records import archives
from skingpt4.records.archives import StoreError, TooLarge, exists, member_names, num_bytes, read_bytes
from skingpt4.records.images import ImageError, open_image
from tests.support.zip_files import write_bomb


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path):
    members = [(f"images/{n}.bin", bytes([n]) * n) for n in range(40)]
    members += [("./dot.bin", b"dot"), ("deep/" * 40 + "long name \N{GREEK SMALL LETTER ALPHA}.bin", b"long")]
    return write_tar(tmp_path / "000000.tar", members)


def test_a_file_and_a_member_read_alike(shard, tmp_path):
    (tmp_path / "plain.bin").write_bytes(b"plain")
    assert read_bytes(tmp_path / "plain.bin") == b"plain"
    for n in (39, 0, 7, 7):
        assert read_bytes(shard / f"images/{n}.bin") == bytes([n]) * n
    assert read_bytes(shard / "dot.bin") == b"dot"
    assert read_bytes(str(shard) + "/images/../images/3.bin") == b"\3" * 3
    assert read_bytes(shard / ("deep/" * 40 + "long name \N{GREEK SMALL LETTER ALPHA}.bin")) == b"long"


def test_what_is_there_and_what_is_not(shard, tmp_path):
    assert exists(shard / "images/5.bin")
    assert exists(shard)
    assert not exists(shard / "images")
    assert not exists(shard / "images/40.bin")
    assert not exists(tmp_path)
    assert not exists(tmp_path / "other.tar/images/5.bin")
    assert not exists("a\0b")
    with pytest.raises(FileNotFoundError, match=r"000000\.tar: has no member images/40\.bin"):
        read_bytes(shard / "images/40.bin")
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "other.tar/images/5.bin")


def test_a_folder_that_is_called_tar_is_a_folder(tmp_path):
    (tmp_path / "old.tar" / "inner").mkdir(parents=True)
    (tmp_path / "old.tar" / "x.bin").write_bytes(b"x")
    write_tar(tmp_path / "old.tar" / "inner" / "a.tar", [("y.bin", b"y")])
    assert read_bytes(tmp_path / "old.tar" / "x.bin") == b"x"
    assert read_bytes(tmp_path / "old.tar" / "inner" / "a.tar" / "y.bin") == b"y"


def test_the_later_of_two_members_of_one_name_counts(tmp_path):
    shard = write_tar(tmp_path / "a.tar", [("x", b"old"), ("y", b"y"), ("x", b"new")])
    assert read_bytes(shard / "x") == b"new"


def test_an_archive_that_was_written_anew_is_read_anew(tmp_path):
    shard = write_tar(tmp_path / "a.tar", [("x", b"1")])
    assert read_bytes(shard / "x") == b"1"
    write_tar(shard, [("w", b"0" * 20_000), ("x", b"2")])
    assert read_bytes(shard / "x") == b"2"


def test_the_limit_is_kept_before_reading(shard, tmp_path):
    (tmp_path / "plain.bin").write_bytes(b"12345")
    for path in (tmp_path / "plain.bin", shard / "images/5.bin"):
        assert len(read_bytes(path, limit=5)) == 5
        with pytest.raises(TooLarge, match="5 bytes is more than 4"):
            read_bytes(path, limit=4)


@pytest.mark.parametrize("damage", ["compressed", "cut", "words"])
def test_an_archive_that_cannot_be_read_is_named(damage, tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [("x", b"x" * 5000), ("y", b"y" * 5000)], "w:gz" if damage == "compressed" else "w")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:8000])
    if damage == "words":
        path.write_text("no archive " * 200)
    with pytest.raises(StoreError, match=r"a\.tar: "):
        read_bytes(path / "y")
    assert not exists(path / "y")
    with pytest.raises(ImageError, match=r"a\.tar") as caught:
        open_image(path / "y")
    assert caught.value.reason == "unreadable"


def test_a_picture_in_an_archive_is_the_picture_in_a_folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    shard = write_tar(tmp_path / "s.tar", [("images/p.png", (tmp_path / "p.png").read_bytes())])
    assert np.array_equal(np.asarray(open_image(shard / "images/p.png")), pixels)
    with pytest.raises(ImageError, match="no such picture") as caught:
        open_image(shard / "images/q.png")
    assert caught.value.reason == "missing"


def test_the_index_of_a_large_archive_is_kept_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MIN_CACHED", 3)
    shard = write_tar(tmp_path / "a.tar", [(f"{n}", bytes([n])) for n in range(5)])
    assert read_bytes(shard / "4") == b"\4"
    (index_path,) = tmp_path.glob(".a.tar.*.npy")
    archives._index.cache_clear()
    monkeypatch.setattr(archives, "_read_headers", lambda *args: pytest.fail("read again"))
    assert read_bytes(shard / "3") == b"\3"
    monkeypatch.undo()
    archives._index.cache_clear()
    index_path.write_bytes(b"half of it")
    assert read_bytes(shard / "3") == b"\3"


def test_a_folder_that_cannot_be_written_costs_only_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MIN_CACHED", 1)
    shard = write_tar(tmp_path / "a.tar", [("x", b"x"), ("y", b"y")])

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(archives.os, "replace", refuse)
    assert read_bytes(shard / "x") == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_processes_that_share_an_archive(shard):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        contents = pool.map(read_bytes, [shard / f"images/{n}.bin" for n in range(40)])
        pool.close()  # not ended by SIGTERM, for which a forked process may have this one's handler
        pool.join()
    assert contents == [bytes([n]) * n for n in range(40)]


# --- zip files --------------------------------------------------------------------------------------


def write_zip(path, members):
    """Members by turns stored as they are and deflated."""
    with zipfile.ZipFile(path, "w") as file:
        for n, (name, data) in enumerate(members):
            file.writestr(name, data, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[n % 2])
    return path


@pytest.fixture
def packed(tmp_path):
    return write_zip(tmp_path / "pictures.zip", [(f"images/{n}.bin", bytes([n]) * n) for n in range(40)])


def test_members_of_a_zip_file_are_read_in_place(packed):
    for n in (39, 0, 8, 8, 1):
        assert read_bytes(packed / f"images/{n}.bin") == bytes([n]) * n
    assert exists(packed / "images/5.bin")
    assert not exists(packed / "images/40.bin")
    assert not exists(packed / "images")
    with pytest.raises(FileNotFoundError, match=r"pictures\.zip: has no member images/40\.bin"):
        read_bytes(packed / "images/40.bin")
    with pytest.raises(TooLarge):
        read_bytes(packed / "images/39.bin", limit=38)  # by the size of the picture, not of what is packed
    assert list(member_names(packed))[:2] == ["images/0.bin", "images/1.bin"]


def test_the_size_of_a_file_or_member_is_known_without_reading_it(packed, shard, monkeypatch):
    monkeypatch.setattr(archives, "open_regular", lambda *_: pytest.fail("read"))
    assert num_bytes(packed / "images/39.bin") == num_bytes(shard / "images/39.bin") == 39
    assert num_bytes(packed) == packed.stat().st_size
    for path in (packed / "images/40.bin", shard.with_name("away.bin")):
        with pytest.raises(FileNotFoundError):
            num_bytes(path)


def test_a_member_that_becomes_gigabytes_is_not_inflated(tmp_path, monkeypatch):
    path = write_bomb(tmp_path / "a.zip", "x.jpg")
    assert num_bytes(path / "x.jpg") == 2**32 - 2
    monkeypatch.setattr(archives, "zlib", None)
    with pytest.raises(TooLarge, match="4294967294 bytes is more than 536870912"):
        read_bytes(path / "x.jpg")
    with pytest.raises(ImageError, match="has more than 536870912 bytes"):
        open_image(path / "x.jpg")


def test_names_of_a_tar_archive(shard):
    assert list(member_names(shard))[:2] == ["images/0.bin", "images/1.bin"]


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write_zip(tmp_path / "a.zip", [("x", b"old"), ("x", b"new")])
    assert read_bytes(path / "x") == b"new"


@pytest.mark.parametrize("n", [38, 39])  # stored, deflated
def test_a_damaged_member_of_a_zip_file_is_named(packed, n):
    with zipfile.ZipFile(packed) as file:
        start = file.getinfo(f"images/{n}.bin").header_offset
    data = bytearray(packed.read_bytes())
    data[start + 30 + len(f"images/{n}.bin")] ^= 0xFF
    packed.write_bytes(data)
    with pytest.raises(StoreError, match=rf"pictures\.zip: images/{n}\.bin: is damaged"):
        read_bytes(packed / f"images/{n}.bin")
    assert read_bytes(packed / "images/7.bin") == bytes([7]) * 7
    data[start] ^= 0xFF
    packed.write_bytes(data)
    with pytest.raises(StoreError, match="is not where the archive says"):
        read_bytes(packed / f"images/{n}.bin")


def test_zip_files_that_cannot_be_read_in_place(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(StoreError, match=r"a\.zip: is not a zip archive that can be read in place"):
        read_bytes(tmp_path / "a.zip/x")
    assert not exists(tmp_path / "a.zip/x")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("x", b"x" * 100, zipfile.ZIP_BZIP2)
    with pytest.raises(StoreError, match=r"b\.zip: x: is compressed in a way"):
        read_bytes(tmp_path / "b.zip/x")
    path = write_zip(tmp_path / "c.zip", [("x", b"x")])
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag of encryption
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"c\.zip: x: is encrypted"):
        read_bytes(path / "x")


def test_a_zip_file_that_names_more_bytes_than_there_can_be(tmp_path):
    path = write_zip(tmp_path / "a.zip", [("x", b""), ("y", b"y" * 100)])
    content = path.read_bytes()
    entry = content.rindex(
        b"PK\1\2"
    )  # APPNOTE, 4.3.12: packed size at 20, size at 24, place at 42, name at 46
    end = content.index(b"PK\5\6")  # 4.3.16: bytes of all entries at 12
    for sizes in ((2**63 + 5, 20, 0), (100, 2**63 + 5, 0), (100, 20, 2**63 + 5)):
        extra = struct.pack("<HHQQQ", 1, 24, *sizes)  # 4.5.3
        data = bytearray(content)
        struct.pack_into("<L", data, end + 12, struct.unpack_from("<L", data, end + 12)[0] + len(extra))
        struct.pack_into("<LLHH", data, entry + 20, 2**32 - 1, 2**32 - 1, 1, len(extra))
        struct.pack_into("<L", data, entry + 42, 2**32 - 1)
        data[entry + 47 : entry + 47] = extra
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"a\.zip"):
            read_bytes(path / "y")


@pytest.mark.parametrize("table", [np.zeros(3, np.uint64), np.zeros((5, 1)), np.zeros((9, 1), np.uint64)])
def test_an_index_that_is_none_is_made_again(packed, table):
    status = packed.stat()
    np.save(packed.with_name(f".pictures.zip.{status.st_size}-{status.st_mtime_ns}.npy"), table)
    assert read_bytes(packed / "images/7.bin") == bytes([7]) * 7
