"""Decodes a picture in a process of its own, so that a decoder that crashes, never ends or eats memory ends alone.

A worker loads the decoders once, reads no picture itself, and forks a process for each: that has limits, gives one
answer and ends, and nothing of a picture stays. A worker ends when the server does, and takes that process along.
Windows has neither forks nor limits: there the worker decodes itself, and only the time is bounded.

What comes back is bounded, and nothing of it is ever run: a line of JSON, then the plain bytes of the pixels. The
process has the rights of the server. It is no sandbox for code that a decoder was made to run.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from PIL import AvifImagePlugin, Image

from skingpt4.records.images import (
    LIMITS,
    MAX_PIXELS,
    REASONS,
    REMARKS,
    ImageError,
    num_pixels,
    open_image,
    prepare_pillow,
    remarks,
)
from skingpt4.records.pixels.dicom import is_dicom
from skingpt4.records.pixels.rgb import STRIP_PIXELS, strips
from skingpt4.server.decoding.environment import environment
from skingpt4.support.errors import trace_of
from skingpt4.support.parse import parse_json

MAX_MEMORY = 4 * 2**30  # bytes of address space beside the file; 80 megapixels of WebP take 1.3 GiB
MAX_CPU_SECONDS = 60  # 40 megapixels of JPEG 2000 take 15 on a slow machine
MAX_SECONDS = 240  # a machine may have much else to do; of what computes, the processor's time ends first
MAX_THREADS = 4  # each takes address space, and libavif would start one a core
MAX_LINE = 2**14
FAILED = (
    "the picture could not be decoded: its decoder crashed, or took too much memory or time; "
    "save it again as an ordinary JPEG or PNG file"
)
_READY = b"+"
_ANSWERED = 99  # the exit status of a process that did; a library that gives up may end with 0
_START = f"from {__name__} import work; work()"
_Result = tuple[Image.Image, tuple[str, ...]]


def measure(data: bytes, name: str) -> int:
    """`records.images.num_pixels`, by another process; raises as `decode`."""
    return int(_ask(data, name, False))


def decode(data: bytes, name: str) -> _Result:
    """What `records.images.open_image` and `remarks` return, by another process.

    Raises:
        ImageError: as of `open_image`; and where the decoder broke a limit or ended, as a damaged picture.
        RuntimeError: no such process can be started.
    """
    result: _Result = _ask(data, name, True)
    return result


def _ask(data: bytes, name: str, with_pixels: bool) -> Any:
    worker = _free_worker()
    try:
        answer = worker.answer(data, name, with_pixels)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        worker.end()
        raise ImageError(f"{name}: {FAILED}", "damaged") from None
    except BaseException:
        worker.end()
        raise
    _idle.append(worker)
    if isinstance(answer, ImageError):
        raise answer
    return answer


# ---- in the server


class _Worker:
    """One process, which ends when this one does: its input is then closed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(  # a session of its own: Ctrl-C is meant for the server
            [sys.executable, "-P", "-c", _START],  # -P: nothing of the folder that this runs in is imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(MALLOC_ARENA_MAX="2", OPENBLAS_NUM_THREADS="1"),  # one that forks has one thread
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self._is_ready = False

    def answer(self, data: bytes, name: str, with_pixels: bool) -> int | _Result | ImageError:
        """Its answer; whatever else is raised, the worker can no longer be used."""
        timer = threading.Timer(MAX_SECONDS, self._kill)
        timer.start()
        try:
            if not self._is_ready and self._output.read(1) != _READY:
                raise RuntimeError("the process that decodes pictures does not start; its output says why")
            self._is_ready = True
            request = {"name": name, "length": len(data), "with_pixels": with_pixels}
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.write(data)
            self._input.flush()
            return self._read(with_pixels)
        finally:
            timer.cancel()

    def _read(self, with_pixels: bool) -> int | _Result | ImageError:
        answer = dict(parse_json(self._output.readline(MAX_LINE)))
        if "error" in answer:
            return ImageError(str(answer["error"]), REASONS[REASONS.index(answer["reason"])])
        if not with_pixels:
            return int(answer["num_pixels"])
        width, height = map(int, answer["size"])
        if not (width > 0 and height > 0 and width * height <= max(MAX_PIXELS, *LIMITS.values())):
            raise ValueError
        image = Image.new("RGB", (width, height))
        rows = max(1, STRIP_PIXELS // width)
        for top in range(0, height, rows):
            size = width, min(rows, height - top)
            image.paste(Image.frombytes("RGB", size, self._output.read(3 * size[0] * size[1])), (0, top))
        return image, tuple(known for known in REMARKS if known in answer["remarks"])

    def _kill(self) -> None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # the picture's process too
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def end(self) -> None:
        """Stop it at once."""
        self._kill()
        self.process.wait()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):  # what it did not read
                pipe.close()


_idle: list[_Worker] = []


def _free_worker() -> _Worker:
    """One that nobody else uses."""
    while True:
        try:
            worker = _idle.pop()
        except IndexError:
            try:
                return _Worker()
            except OSError as error:
                raise RuntimeError(f"no process that decodes pictures can be started ({error})") from None
        if worker.process.poll() is None:
            return worker
        worker.end()


# ---- in the worker


def work() -> None:
    """What a worker does until its input is closed."""
    prepare_pillow()
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = MAX_THREADS
    with contextlib.suppress(OSError):  # where memory runs out, the system ends this one and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # what a library prints is no answer
        sink.write(_READY)
        sink.flush()
        while line := source.readline():
            request = json.loads(line)
            data = source.read(request["length"])
            if is_dicom(data):
                with contextlib.suppress(ImportError):  # once, and not in each process
                    importlib.import_module("pydicom.pixels.processing")
            if not hasattr(os, "fork"):
                _answer(request, data, sink)
            elif not _forked(request, data, sink):
                return
            del data  # nothing of a picture stays


def _forked(request: dict[str, Any], data: bytes, sink: IO[bytes]) -> bool:
    """Let a new process answer; False if it failed, or was ended because the server had ended."""
    ended, held = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            _limit(len(data))
            _answer(request, data, sink)
            status = _ANSWERED
        except Exception as error:  # a decoder's message may hold a part of the picture's texts
            print(trace_of(error), file=sys.stderr)
        finally:
            os._exit(status)
    os.close(held)
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)  # only whether the other side is closed
    poll.register(ended, select.POLLIN)
    if any(descriptor != ended for descriptor, _ in poll.poll()):
        os.kill(process, signal.SIGKILL)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == _ANSWERED


def _limit(num_bytes: int) -> None:
    """Bound what this process may take; its own time too, for it may be alone."""
    import resource

    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY + num_bytes),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError) as error:  # a system that has no such limit, or a lower one
            print(f"a picture is decoded without one of its limits ({error})", file=sys.stderr)
    signal.alarm(MAX_SECONDS)


def _answer(request: dict[str, Any], data: bytes, sink: IO[bytes]) -> None:
    name, image = request["name"], None
    try:
        if request["with_pixels"]:
            image = open_image(data, name)
            answer: dict[str, Any] = {"size": image.size, "remarks": remarks(data)}
        else:
            answer = {"num_pixels": num_pixels(data, name)}
    except ImageError as error:
        answer = {"error": str(error)[: MAX_LINE // 16], "reason": error.reason}
    except MemoryError:
        answer = {"error": f"{name}: {FAILED}", "reason": "damaged"}
    sink.write(json.dumps(answer).encode() + b"\n")
    for _, strip in strips(image) if image else ():
        sink.write(strip.tobytes())
    sink.flush()
