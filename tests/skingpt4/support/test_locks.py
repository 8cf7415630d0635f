"""Locks keep two runs apart where there are locks; elsewhere the run goes on with a warning."""

import errno

import pytest

from skingpt4.support.locks import has_locks, lock
from tests.support.locking import without_locks


def test_a_lock_is_held_until_its_file_is_closed(tmp_path, caplog):
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        lock(first, "out")
        with pytest.raises(BlockingIOError):
            lock(second, "out")
        first.close()
        lock(second, "out")
    assert has_locks(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_no_locks_are_a_warning(tmp_path, monkeypatch, caplog, number):
    without_locks(monkeypatch, number)
    with (tmp_path / "lock").open("w") as file:
        lock(file, "out.jsonl")
    assert "out.jsonl: this file system has no locks; start no second run there" in caplog.text
    assert not has_locks(tmp_path)


def test_a_folder_that_cannot_be_written_is_for_others_to_report(tmp_path):
    assert has_locks(tmp_path / "nowhere")
