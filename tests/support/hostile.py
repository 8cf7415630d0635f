"""Hostile clients of the HTTP API: python -m tests.support.hostile HOST PORT NUMBER [KIND ...]

They begin again until the standard input ends; then how often each kind came is printed as JSON. They have a process
of their own: a hundred threads beside an honest client would keep that one waiting, whatever the server does.
"""

import base64
import contextlib
import functools
import io
import json
import random
import socket
import struct
import sys
import threading
import time
import zlib
from dataclasses import dataclass

from PIL import Image

PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Target:
    """The server that they ask."""

    address: tuple[str, int]


def photo(seed=1, size=(64, 48)):
    """A picture of noise, as a file."""
    out, pixels = io.BytesIO(), random.Random(seed).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).save(out, "PNG")
    return out.getvalue()


def question(text="What is it?", pictures=(), **more):
    """A request's body."""
    urls = ["data:image/png;base64," + base64.b64encode(data).decode() for data in pictures]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
    return {"messages": [message], "max_tokens": 4, **more}


def png(width, height, depth=8, colour=2):
    """A solid picture, compressed to almost nothing."""
    row = b"\0" + bytes(width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8)
    packer = zlib.compressobj(6)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@functools.cache
def bomb():
    return png(10_000, 8_000)


def head(server, length, *more):
    host = "{}:{}".format(*server.address)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {PATH} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", size, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def connect(server):
    return socket.create_connection(server.address, timeout=120)


def send(server, data, leave_after=None):
    """Send a complete request; read its answer, or leave after some seconds."""
    with connect(server) as line:
        line.sendall(head(server, len(data), "Connection: close") + data)
        if leave_after is not None:
            time.sleep(leave_after)
            return b""
        answer = b""
        while part := line.recv(65536):
            answer += part
        return answer


def hold(server, data, seconds, drip=b"", pause=0.5):
    """Send something, then nothing more, or a little now and then, until the server ends the connection."""
    with connect(server) as line:
        line.sendall(data)
        line.settimeout(pause)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if not line.recv(65536):
                    return
            except TimeoutError:
                if drip:
                    line.sendall(drip)


def never_read(server, data, seconds):
    with connect(server) as line:
        line.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            line.sendall(data)
        time.sleep(seconds)


def small_chunks(server):
    """To leave without an answer is another kind; a hundred clients have a hundred connections, not thousands."""
    with connect(server) as line:
        line.sendall(head(server, None) + b"1\r\n[\r\n" * 20_000)
        while line.recv(65536):
            pass


MB = 10**6
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HELLO = {"role": "user", "content": "abcdefghij"}
LONG_ADDRESS = {"type": "image_url", "image_url": "data:" + ";a" * 4 * MB}
# Bodies that are sent completely, and after how many seconds the client leaves.
BODIES = {
    "leaving at once": (lambda: question(pictures=[photo(size=(800, 600))], max_tokens=300), 0.0),
    "leaving": (lambda: question(pictures=[photo()], max_tokens=300), 0.5),
    "leaving a stream": (lambda: question(stream=True, max_tokens=300), 0.3),
    "many messages": (lambda: {"messages": [HELLO] * 80_000}, None),
    "long text": (lambda: question("word " * (4 * MB // 5)), None),
    "long address": (lambda: {"messages": [{"role": "user", "content": [LONG_ADDRESS]}]}, None),
    "many values": (lambda: b"[" + b"[]," * (6 * MB) + b"[]]", None),
    "deep": (lambda: b"[" * MB, None),
    "long key": (lambda: question() | {"k" * 10 * MB: 1}, None),
    "long stop": (lambda: question(stop="a" * 10 * MB), None),
    "large picture": (lambda: question(pictures=[bomb()]), None),
    "eight large pictures": (lambda: question(pictures=[bomb()] * 8), None),
    "large bodies": (lambda: question(pictures=[b"\0" * 14 * MB]), None),
    "long answers": (lambda: question(pictures=[photo()], max_tokens=400), None),
}


@functools.cache
def body_of(kind):
    """Made once: these clients should take as little of the machine as they can."""
    body = BODIES[kind][0]()
    return body if isinstance(body, bytes) else json.dumps(body).encode()


# Each is called again and again; it may fail.
HOSTILE = {
    "silent": lambda s: hold(s, b"", 8),
    "slow head": lambda s: hold(s, b"POST /v1/chat", 8, b"a"),
    "large head": lambda s: hold(s, GET[:-2] + b"a: b\r\n" * 50_000 + b"\r\n", 2),
    "body that stops": lambda s: hold(s, head(s, 19 * MB) + b"[" * 10 * MB, 8),
    "body by drops": lambda s: hold(s, head(s, 19 * MB), 8, b"["),
    "small chunks": small_chunks,
    "flood": lambda s: never_read(s, GET * 6_000, 3),
    "no reading": lambda s: never_read(s, (head(s, 2) + b"{}") * 500, 3),
    "no HTTP": lambda s: hold(s, b"\0\xff\r\n" * 20_000, 2),
    **{kind: lambda s, kind=kind: send(s, body_of(kind), BODIES[kind][1]) for kind in BODIES},
}


def go_on(target, kind, over, num_done):
    while not over.is_set():
        with contextlib.suppress(OSError):
            HOSTILE[kind](target)
        num_done[kind] += 1


def main(host, port, count, *kinds):
    kinds = kinds or tuple(HOSTILE)
    for kind in set(kinds) & set(BODIES):
        body_of(kind)
    over, num_done, target = threading.Event(), dict.fromkeys(kinds, 0), Target((host, int(port)))
    for number in range(int(count)):
        arguments = (target, kinds[number % len(kinds)], over, num_done)
        threading.Thread(target=go_on, args=arguments, daemon=True).start()
    print("begun", flush=True)
    sys.stdin.read()
    over.set()
    print(json.dumps(num_done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
