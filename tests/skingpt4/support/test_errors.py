"""How a command ends when it cannot go on."""

import os
import stat
import subprocess
import sys

import pytest

from skingpt4.support.errors import (
    DEBUG,
    DISK_FAILURES,
    UserError,
    is_out_of_memory,
    reason_of,
    reported,
    trace_of,
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's class."""


def fail_with_a_hidden_cause():
    try:
        {}["lost key"]
    except KeyError:
        raise UserError("config.yaml: has no key; add it") from None


def out_of_memory():
    raise OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("fail", "sentence", "deepest"),
    [
        (fail_with_a_hidden_cause, "error: config.yaml: has no key; add it", "KeyError: 'lost key'"),
        (out_of_memory, "error: out of GPU memory", "OutOfMemoryError: CUDA out of memory"),
    ],
)
@pytest.mark.parametrize("debug", [None, "0", "1"])
def test_an_expected_failure_is_one_sentence_and_has_a_traceback_only_for_debugging(
    fail, sentence, deepest, debug, monkeypatch, capsys
):
    monkeypatch.delenv(DEBUG, raising=False)
    if debug is not None:
        monkeypatch.setenv(DEBUG, debug)
    with reported() as status:
        fail()
    first, *traceback = capsys.readouterr().err.splitlines()
    assert (status.code, first.startswith(sentence)) == (1, True)
    assert bool(traceback) is (debug == "1")
    if debug == "1":
        assert deepest in "\n".join(traceback)
        assert fail.__name__ in "\n".join(traceback)


@pytest.mark.parametrize("number", DISK_FAILURES)
def test_a_disk_that_takes_nothing_is_one_sentence_with_a_status_of_its_own(number, capsys):
    with reported() as status:
        raise OSError(number, os.strerror(number))
    assert status.code == 74
    reason = os.strerror(number)
    sentence = f"error: a file: cannot be read or written ({reason}); once this is fixed, give the same command again"
    assert capsys.readouterr().err == sentence + "\n"


def test_a_full_disk_is_named_with_its_file(capsys):
    with reported() as status, open("/dev/full", "w", buffering=1) as file:
        file.write("a line\n")
    assert status.code == 74
    assert "No space left on device" in capsys.readouterr().err


def test_an_unexpected_failure_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), reported():
        1 / 0  # noqa: B018


def fail_with(text):
    try:
        raise KeyError(text)
    except KeyError as error:
        error.__cause__ = ValueError(text)
        error.__cause__.__cause__ = error  # a circle
        raise RuntimeError(text) from error


@pytest.mark.parametrize("debug", [False, True])
def test_a_server_logs_where_it_failed_and_not_what_was_written(monkeypatch, debug):
    monkeypatch.setenv(DEBUG, str(int(debug)))
    words = "Anna " + "Example"  # the trace shows lines of the source
    with pytest.raises(RuntimeError) as caught:
        fail_with(words)
    trace = trace_of(caught.value)
    places = [trace.index(name) for name in ("ValueError", "KeyError", "fail_with", "RuntimeError")]
    assert places[0] < places[1] < places[3]
    assert (words in trace) is debug


def test_out_of_memory_is_recognised_on_gpu_and_cpu_but_only_a_gpus_has_a_sentence():
    cpu = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes.")
    assert all(map(is_out_of_memory, (OutOfMemoryError(), MemoryError(), cpu)))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    for error in (cpu, MemoryError()):
        with pytest.raises(type(error)), reported():
            raise error


def test_a_reader_that_has_had_enough_ends_a_command_without_a_word():
    code = (
        "import sys\nfrom skingpt4.support.errors import reported\n"
        "with reported() as status:\n    for number in range(100_000):\n        print(number)\n"
        "sys.exit(status.code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "notes.csv"), "No such file or directory"),
        (ConnectionError("[Errno -2] Name or service not known"), "Name or service not known"),
        (ValueError("line 3 is empty"), "line 3 is empty"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_reason_is_the_systems_words_alone(error, words):
    assert reason_of(error) == words


def test_a_file_name_gives_the_terminal_no_command(capsys):
    with reported():
        raise UserError("a\x1b]0;title\x07\r.jpg\u061c: no such picture")
    assert capsys.readouterr().err == "error: a\\x1b]0;title\\x07\\r.jpg\u061c: no such picture\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_any_name_is_printed(encoding):
    code = "from skingpt4.support.errors import reported\nwith reported(): print('L\\udce4sion 皮疹 é')"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
    assert printed.decode(encoding).startswith("L\\udce4sion ")


def test_what_a_command_writes_is_for_its_user_alone_unless_it_is_meant_for_others(tmp_path):
    before = os.umask(0o022)
    try:
        for for_others, modes in ((False, (0o600, 0o700)), (True, (0o644, 0o755))):
            folder = tmp_path / str(for_others)
            with reported(for_others):
                folder.mkdir()
                (folder / "notes.txt").touch()
                subprocess.run([sys.executable, "-c", f"open({str(folder / 'child')!r}, 'w')"], check=True)
            files = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert (files, stat.S_IMODE(folder.stat().st_mode)) == ({modes[0]}, modes[1])
            assert os.umask(0o022) == 0o022, "it is as it was afterwards"
        with reported() as status:
            raise UserError("a failure leaves it as it was too")
        assert (status.code, os.umask(0o022)) == (1, 0o022)
    finally:
        os.umask(before)
