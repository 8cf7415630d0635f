"""A decoder that crashes, never ends, eats memory or answers nonsense is one sentence, and the server goes on."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000

from skingpt4.records.images import ImageError, num_pixels, open_image, prepare_pillow, remarks
from skingpt4.server.decoding import process
from skingpt4.server.decoding.process import decode, measure
from skingpt4.support.memory import peak_bytes
from tests.conftest import ROOT
from tests.skingpt4.records.pixels.test_codestreams import resized, restyled, scanned
from tests.skingpt4.records.pixels.test_items import gridded
from tests.support import dicom_files

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SECONDS = 60
# In a worker: a picture of 8 pixels' height is decoded by `decoder`, and no other is.
PATCHED = """
import ctypes, os, signal, time
from skingpt4.server.decoding import process
real, answer = process.open_image, process._answer
def fake(data, name):
    image = real(data, name)
    if image.height == 8:
        decoder()
    return image
process.open_image = fake
{}
process.work()
"""


def file_of(kind, image=None, **options):
    prepare_pillow()
    buffer = io.BytesIO()
    (image or noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode="RGB", size=(75, 50)):
    shape = (size[1], size[0], len(mode))
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.frombytes(mode, size, values.tobytes())


GOOD, BAD = file_of("PNG"), file_of("PNG", Image.new("RGB", (9, 8)))


@pytest.fixture(autouse=True)
def workers(monkeypatch):
    """No workers of other tests, and none left for them."""
    monkeypatch.setattr(process, "_idle", [])
    yield process._idle
    for worker in process._idle:
        worker.end()


@pytest.fixture
def patched(monkeypatch):
    """Let the workers run some code before they begin."""

    def patch(code):
        monkeypatch.setattr(process, "_START", PATCHED.format(code))

    return patch


def reading(data):
    image, known = decode(data, "picture 1")
    assert (image.mode, image.info) == ("RGB", {})
    return image.size, image.tobytes(), known


def refusal(data, function=decode):
    with pytest.raises(ImageError) as caught:
        function(data, "picture 1")
    return str(caught.value), caught.value.reason


FAILED = f"picture 1: {process.FAILED}", "damaged"


# ---- decoders that fail

ENDS = [
    "decoder = lambda: bytearray(1 << 40)",
    "process.MAX_MEMORY = 2**30\ndef decoder():\n    while ctypes.CDLL(None).malloc(1 << 26): pass\n    os.abort()",
    "process.MAX_CPU_SECONDS = 1\ndef decoder():\n    while True: pass",
    "process.MAX_SECONDS = 1\ndecoder = lambda: time.sleep(100)",
    "decoder = lambda: os.kill(os.getpid(), signal.SIGSEGV)",
    "decoder = lambda: ctypes.string_at(0)",
    "decoder = lambda: os._exit(0)",
    "decoder = lambda: 1 / 0",
]


@LINUX
@pytest.mark.parametrize("code", ENDS, ids=lambda code: code.splitlines()[-1][-30:])
def test_a_decoder_that_fails_is_a_sentence_and_the_next_picture_is_read(code, patched):
    patched(code)
    assert refusal(BAD) == FAILED
    assert reading(GOOD) == ((75, 50), noise().tobytes(), ())


LOGGED = """
import sys
from skingpt4.server.decoding import process
process._START = {!r}
try:
    process.decode(open(sys.argv[1], "rb").read(), "x")
except process.ImageError:
    pass
"""


@LINUX
def test_a_decoder_s_message_is_not_in_the_log(tmp_path):
    """It may quote the picture's texts. The log is a pipe, as a service manager's: into a file nothing is written."""
    (tmp_path / "picture").write_bytes(BAD)
    code = LOGGED.format(
        PATCHED.format("words = 'Anna ' + 'Example'\ndef decoder(): raise RuntimeError(words)")
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "picture"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "RuntimeError" in done.stderr
    assert "Anna Example" not in done.stderr


NONSENSE = [
    "b'no answer'", "b'no answer\\n'", "b'[' * 5000 + b'\\n'", "b'7\\n'", "b'x' * 10**6", "b'\\xff\\n'",
    "b'{\"size\": [9, 8], \"remarks\": []}\\n' + bytes(9 * 8 * 3 - 1)",
    "b'{\"size\": [90000, 80000], \"remarks\": []}\\n'", "b'{\"size\": [-9, -8], \"remarks\": []}\\n'",
    "b'{\"size\": [9], \"remarks\": []}\\n'", "b'{\"size\": [9, 1e999], \"remarks\": []}\\n'",
    "b'{\"error\": \"no\", \"reason\": \"none\"}\\n'",
]  # fmt: skip


@LINUX
@pytest.mark.parametrize("written", NONSENSE)
def test_an_answer_that_is_none_is_a_sentence(written, patched):
    patched(
        f"def lies(request, data, sink):\n"
        f"    if len(data) == {len(BAD)}:\n"
        f"        sink.write({written}); sink.flush(); os._exit(1)\n"
        f"    answer(request, data, sink)\n"
        f"process._answer = lies"
    )
    assert refusal(BAD) == FAILED
    assert reading(GOOD)[0] == (75, 50)


def test_one_that_does_not_answer_in_time_is_ended(patched, monkeypatch):
    """Where a system has neither forks nor limits, as Windows, that is all."""
    patched("del os.fork\ndecoder = lambda: time.sleep(100)")
    assert reading(GOOD) == ((75, 50), noise().tobytes(), ())
    monkeypatch.setattr(process, "MAX_SECONDS", 1)
    (worker,) = process._idle
    assert refusal(BAD) == FAILED
    assert worker.process.returncode is not None


def test_one_that_was_killed_while_it_waited_is_replaced(workers):
    reading(GOOD)
    (killed,) = workers
    os.kill(killed.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, killed.process.pid, os.WEXITED | os.WNOWAIT)
    assert reading(GOOD)[0] == (75, 50)
    assert killed not in workers


@LINUX
def test_a_worker_knows_nothing_of_the_server_s_secrets(workers, monkeypatch):
    monkeypatch.setenv("SKINGPT4_API_KEY", "a key")
    monkeypatch.setenv("SOMETHING_ELSE", "a token")
    reading(GOOD)
    (worker,) = workers
    known = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
    assert {b"MALLOC_ARENA_MAX=2", b"OPENBLAS_NUM_THREADS=1"} < set(known)
    assert not [each for each in known if each.endswith((b"=a key", b"=a token"))]


def test_a_worker_that_does_not_start_is_no_fault_of_the_picture(monkeypatch):
    monkeypatch.setattr(process, "_START", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="does not start"):
        decode(GOOD, "picture 1")


# ---- files that break a decoder, where nothing else looks at them

UNGUARDED = """
from skingpt4.records.pixels import headers
headers.require_few_scans = headers.require_few_blocks = headers.require_few_items = lambda data: None
process.MAX_CPU_SECONDS = 1
process.MAX_MEMORY = 2**29
"""


def dicom_bomb():
    values = np.zeros((6000, 6000), np.uint8)
    return dicom_files.compressed([restyled(6000, precincts=b"\0")], JPEG2000, values, "MONOCHROME2")


@LINUX
@pytest.mark.parametrize(
    "bomb",
    [
        lambda: resized(scanned(64, 1200), 5000),
        lambda: restyled(6000, precincts=b"\0"),
        lambda: restyled(6000, block=b"\0\0"),
        lambda: gridded(250, 250, 64, 64),
        dicom_bomb,
    ],
    ids=["scans", "precincts", "blocks", "tiles", "dicom"],
)
def test_the_limits_hold_where_no_header_is_looked_at(bomb, patched):
    patched(UNGUARDED)
    began, (largest_before, before) = time.monotonic(), used_by_children()
    sentence, reason = refusal(bomb())
    if sentence != FAILED[0]:  # some decoders say themselves that they get no memory
        assert reason in ("damaged", "not_an_image")
    (largest, seconds) = used_by_children()
    # The largest of all children that this process has had: of other tests too, where one of them took more. Until a
    # child starts its own program, Linux counts what this process holds as its peak.
    assert largest < max(2**30, peak_bytes() + 1) or largest == largest_before
    assert seconds - before < 60
    assert time.monotonic() - began < process.MAX_SECONDS
    assert reading(GOOD)[0] == (75, 50)


def used_by_children():
    import resource

    for worker in process._idle:
        worker.end()
    process._idle.clear()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_maxrss * 1024, used.ru_utime + used.ru_stime


# ---- pictures as they are


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of("JPEG", exif=exif)


def deep(dtype, peak):
    return Image.fromarray((np.arange(75 * 50).reshape(50, 75) % peak).astype(dtype))


def palette():
    image = noise().quantize(16)
    return file_of("PNG", image, transparency=3)


PICTURES = {
    "jpeg": lambda: file_of("JPEG"), "progressive": lambda: file_of("JPEG", progressive=True),
    "cmyk": lambda: file_of("JPEG", noise("CMYK")), "turned": turned, "png": lambda: GOOD,
    "rgba": lambda: file_of("PNG", noise("RGBA")), "palette": palette,
    "grey": lambda: file_of("PNG", noise("L")), "deep": lambda: file_of("PNG", deep(np.uint16, 4000)),
    "float": lambda: file_of("TIFF", deep(np.float32, 1000)), "webp": lambda: file_of("WEBP"),
    "webp rgba": lambda: file_of("WEBP", noise("RGBA"), lossless=True), "heif": lambda: file_of("HEIF"),
    "avif": lambda: file_of("AVIF"), "gif": lambda: file_of("GIF"), "bmp": lambda: file_of("BMP"),
    "tiff": lambda: file_of("TIFF", compression="tiff_lzw"), "ppm": lambda: file_of("PPM"),
    "jpeg 2000": lambda: file_of("JPEG2000"), "large": lambda: file_of("BMP", noise(size=(1500, 1501))),
    "dicom": dicom_files.photograph, "dicom rle": dicom_files.rle, "dicom jpeg": dicom_files.jpeg,
    "dicom jpeg 2000": dicom_files.jpeg2000,
    "dicom with text": lambda: dicom_files.photograph(BurnedInAnnotation="YES"),
    "words": lambda: b"words", "nothing": lambda: b"", "cut": lambda: file_of("PNG")[:-2000],
    "narrow": lambda: file_of("PNG", noise(size=(7, 100))), "cut dicom": lambda: dicom_files.photograph()[:900],
}  # fmt: skip


def test_every_format_is_read_to_the_same_bits_and_refused_in_the_same_words(workers):
    def outcome(opened, measured, data):
        try:
            image, known = opened(data)
            return image.size, image.mode, image.info, image.tobytes(), known, measured(data)
        except ImageError as error:
            return str(error), error.reason

    for name, make in PICTURES.items():
        data = make()
        here = outcome(lambda d: (open_image(d, "x"), remarks(d)), lambda d: num_pixels(d, "x"), data)
        assert outcome(lambda d: decode(d, "x"), lambda d: measure(d, "x"), data) == here, name
    assert len(workers) == 1, "one worker, which a refusal does not end"


@LINUX
def test_a_hundred_pictures_leave_nothing_behind(workers):
    def held():
        (worker,) = workers
        folder = Path(f"/proc/{worker.process.pid}")
        children = folder / f"task/{worker.process.pid}/children"
        wait_until(lambda: not children.read_text())  # that of the last picture
        memory = next(line for line in folder.joinpath("status").read_text().splitlines() if "VmRSS" in line)
        descriptors = [len(list(Path(place, "fd").iterdir())) for place in ("/proc/self", folder)]
        threads = len(list(folder.joinpath("task").iterdir()))
        return worker.process.pid, descriptors, threads, int(memory.split()[1]) // 1024

    large = file_of("BMP", Image.new("RGB", (2000, 1500)))
    for _ in range(3):  # the allocator asks for less and keeps more from the second large block on
        reading(large)
    *before, memory = held()
    assert before[2] == 1, "a process that forks has one thread"
    for number in range(100):
        decode(large if number % 10 == 0 else GOOD, "x")
        refusal(b"words", measure)
    *after, memory_after = held()
    assert after == before
    assert memory_after - memory < 8, "MiB"


KILLED = """
import sys, threading, time
from skingpt4.server.decoding import process
process._START = {!r}
class Seen(process._Worker):
    def __init__(self):
        super().__init__()
        print(self.process.pid, flush=True)
process._Worker = Seen
data = open(sys.argv[1], "rb").read()
threading.Thread(target=process.decode, args=(data, "x"), daemon=True).start()
time.sleep(100)
"""


@LINUX
@pytest.mark.parametrize("busy", [True, False])
def test_a_worker_and_its_picture_end_with_the_server(busy, tmp_path):
    """Also one that is killed."""
    started = tmp_path / "started"
    tell = f"open({str(started)!r}, 'w').close()"
    # A process for a picture may write no file with anything in it; one that is empty it may make.
    looping = PATCHED.format(f"def decoder():\n    {tell}\n    while True: time.sleep(0.01)")
    path = tmp_path / "picture"
    path.write_bytes(BAD if busy else GOOD)
    code = KILLED.format(looping)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        worker = int(server.stdout.readline())
        if busy:
            wait_until(started.exists)
        server.kill()
        server.wait()
    wait_until(lambda: not members(worker))


def members(group):
    """Processes of a group that run."""
    fields = [path.read_text().rpartition(")")[2].split() for path in stat_files()]
    return [row for row in fields if int(row[2]) == group and row[0] != "Z"]


def stat_files():
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            path.read_text()
        except OSError:
            continue
        yield path


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_of_the_folder_that_the_server_runs_in_is_imported(tmp_path, monkeypatch):
    for name in ("PIL", "numpy", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'w').write({name!r})\n")
    monkeypatch.chdir(tmp_path)
    assert reading(GOOD)[0] == (75, 50)
    assert not (tmp_path / "ran").exists()


def test_a_worker_imports_no_network(monkeypatch):
    """Neither the model's libraries nor those of a web server: it starts soon, and takes little memory."""
    code = "import sys; from skingpt4.server.decoding import process; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not {"torch", "transformers", "gradio", "starlette", "pydicom"} & set(loaded.stdout.split())
