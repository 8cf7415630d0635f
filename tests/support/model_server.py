"""A stand-in for servers in the shape of OpenAI's API, good ones and bad ones.

    python -m tests.support.model_server

prints its URL, answers well, and serves until its standard input ends.
"""

import hashlib
import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "stand-in"


class StandIn:
    """How the server behaves (`mode`, see `_Handler`), for the first `num_bad` questions; what it was asked."""

    def __init__(self, mode="good", num_bad=10**9, logprobs=False, model=MODEL):
        self.mode, self.num_bad, self.logprobs, self.model = mode, num_bad, logprobs, model
        self.bodies, self.headers, self.times, self.lock = [], [], [], threading.Lock()
        self.num_open = self.max_open = 0

    def answer(self, body):
        """The text is a function of the question, the conversation, the pictures and the seed."""
        digest = hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest()[:8]
        return f"This could be a skin disease image of eczema. {digest}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        own = self.server.stand_in
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with own.lock:
            own.bodies.append(body)
            own.headers.append(dict(self.headers))
            own.times.append(time.monotonic())
            bad = len(own.bodies) <= own.num_bad
            own.num_open += 1
            self.is_open = True
            own.max_open = max(own.max_open, own.num_open)
        try:
            getattr(self, f"_{own.mode}" if bad else "_good")(body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self._close()

    def _close(self):
        """Before the client has the answer: it may ask again at once."""
        own = self.server.stand_in
        with own.lock:
            own.num_open -= self.is_open
            self.is_open = False

    def _send(self, status, content, kind="application/json", **headers):
        self._close()
        content = content if isinstance(content, bytes) else content.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _pieces(self, body, model):
        text = self.server.stand_in.answer(body)
        return [
            {"model": model, "choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]}
            for part in (text[:10], text[10:])
        ] + [
            {"model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"model": model, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7}},
        ]

    def _stream(self, pieces, end=True):
        text = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + (
            "data: [DONE]\n\n" if end else ""
        )
        self._send(200, text, "text/event-stream")

    def _good(self, body, model=None):
        own = self.server.stand_in
        model = model or own.model
        if body.get("stream"):
            self._stream(self._pieces(body, model))
            return
        choice = {"index": 0, "message": {"content": own.answer(body)}, "finish_reason": "stop"}
        if body.get("logprobs") and own.logprobs:
            likely = [{"token": f" {x}", "logprob": -1.0 - n} for n, x in enumerate("CAB")]
            likely += [{"token": "C", "logprob": -3.0}, {"token": "The", "logprob": -5.0}]
            choice["logprobs"] = {"content": [{"token": "C", "logprob": -1.0, "top_logprobs": likely}]}
        usage = {"completion_tokens": 7}
        self._send(200, json.dumps({"model": model, "choices": [choice], "usage": usage}))

    def _hangs(self, body):
        time.sleep(3)

    def _drips(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b": still here\n\n")
            self.wfile.flush()
            time.sleep(0.05)

    def _lies(self, body):
        self._good(body, "cheaper-model")

    def _half(self, body):
        self._stream(self._pieces(body, self.server.stand_in.model)[:1], end=False)

    def _breaks(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"model": ')

    def _html(self, body):
        self._send(200, "<!doctype html><title>Sign in</title>", "text/html")

    def _no_json(self, body):
        self._send(200, '{"choices": [')

    def _other_json(self, body):
        self._send(200, '{"result": "eczema"}')

    def _a_list(self, body):
        self._send(200, "[]")

    def _deep(self, body):
        self._send(200, "[" * 100_000)

    def _no_text(self, body):
        self._send(200, json.dumps({"model": MODEL, "choices": [{"message": {"content": {"a": 1}}}]}))

    def _error_inside(self, body):
        self._stream([{"error": {"message": "CUDA out of memory"}}])

    def _memory(self, body):
        self._send(500, json.dumps({"error": {"message": "CUDA out of memory.\x1b[31m Tried " + "x" * 999}}))

    def _busy(self, body):
        self._send(429, '{"error": {"message": "slow down"}}', Retry_After="0.2")

    def _too_long(self, body):
        self._send(400, '{"error": {"message": "context length exceeded"}}')

    def _no_key(self, body):
        self._send(401, '{"detail": "no key"}')

    def _no_model(self, body):
        self._send(404, "model not found", "text/plain")

    def _redirects(self, body):
        self._send(307, "", Location="http://192.0.2.1/v1/chat/completions")

    def _endless(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b" " * 2**16)

    def _bomb(self, body):
        self._send(200, b"\x1f\x8b" + b"\0" * 100, Content_Encoding="gzip")


@contextmanager
def serving(stand_in, port=0):
    """The server on a port of this machine; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads, server.stand_in = True, stand_in
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with serving(StandIn()) as url:
        print(url, flush=True)
        sys.stdin.read()
