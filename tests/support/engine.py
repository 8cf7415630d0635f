"""A stand-in for a vLLM server: it reads the tensors that come and has a language model write on, token by token.

It refuses what vLLM refuses (another width, another model, no key), and can die, hang or misbehave.
"""

import base64
import io
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from skingpt4.config.schema import EngineConfig

NAME = "skingpt4-test"


class StandInEngine:
    """A server of one language model.

    Attributes:
        mode: good; or busy, hanging, away, no_ids, no_named, failing, html.
        num_bad: requests that `mode` is for; later ones are good.
        seconds_a_token: how long each takes.
        key: which requests need.
        max_model_len: tokens of a conversation.
        requests: (headers, body, embeddings) of all completions.
        num_open: under way now.
        cancelled: whose listener left before their end.
    """

    def __init__(self, language_model, name=NAME, key=None, seconds_a_token=0.0):
        self.language_model, self.name, self.key = language_model, name, key
        self.seconds_a_token, self.mode, self.num_bad = seconds_a_token, "good", 10**9
        self.max_model_len = 512
        self.requests, self.num_open, self.max_open, self.cancelled = [], 0, 0, 0
        self.sockets, self.lock, self.computing = set(), threading.Lock(), threading.Lock()

    @torch.no_grad()
    def write(self, embeds, body):
        """Yield (token, all tokens' log-probabilities) as vLLM draws them; ends after an end token or max_tokens."""
        read, past, generator = embeds[None], None, torch.Generator().manual_seed(body.get("seed") or 0)
        for _ in range(body["max_tokens"]):
            with self.computing:
                step = {"inputs_embeds": read} if past is None else {"input_ids": read}
                out = self.language_model(**step, past_key_values=past, use_cache=True)
            past, logits = out.past_key_values, out.logits[0, -1].float()
            temperature = body.get("temperature") or 0.0
            drawn = (logits / temperature).softmax(-1) if temperature else None
            token = int(
                logits.argmax() if drawn is None else torch.multinomial(drawn, 1, generator=generator)
            )
            yield token, logits.log_softmax(-1)
            if token in body.get("stop_token_ids", ()):
                return
            read = torch.tensor([[token]])
            time.sleep(self.seconds_a_token)

    def die(self):
        """Cut all connections, as a process that is killed."""
        with self.lock:
            for connection in list(self.sockets):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def setup(self):
        super().setup()
        with self.server.engine.lock:
            self.server.engine.sockets.add(self.connection)

    def finish(self):
        with self.server.engine.lock:
            self.server.engine.sockets.discard(self.connection)
        super().finish()

    def _send(self, status, content, kind="application/json"):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refused(self):
        engine = self.server.engine
        if engine.key and self.headers.get("Authorization") != f"Bearer {engine.key}":
            self._send(401, {"error": {"message": "Unauthorized"}})
            return True
        return False

    def do_GET(self):
        if self.path == "/health":
            self._send(200 if self.server.engine.mode != "away" else 503, b"")
        elif not self._refused():
            engine = self.server.engine
            self._send(200, {"data": [{"id": engine.name, "max_model_len": engine.max_model_len}]})

    def do_POST(self):
        engine = self.server.engine
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        if body["model"] != engine.name:
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            return
        payload = base64.b64decode(body.pop("prompt_embeds"), validate=True)
        embeds = torch.load(io.BytesIO(payload), weights_only=True)
        width = engine.language_model.get_input_embeddings().weight.shape[1]
        if embeds.dim() != 2 or embeds.shape[1] != width:
            self._send(400, {"error": {"message": f"hidden_size {embeds.shape[-1]} does not match {width}"}})
            return
        with engine.lock:
            engine.requests.append((dict(self.headers), body, embeds))
            engine.num_bad -= engine.mode != "good"
            mode = engine.mode if engine.num_bad >= 0 else "good"
            engine.num_open += 1
            engine.max_open = max(engine.max_open, engine.num_open)
        try:
            self._answer(mode, embeds, body)
        except OSError:
            engine.cancelled += 1
        finally:
            with engine.lock:
                engine.num_open -= 1

    def _answer(self, mode, embeds, body):
        engine = self.server.engine
        if mode == "busy":
            self._send(503, {"error": {"message": "overloaded"}})
        elif mode == "hanging":
            time.sleep(3)
        elif mode == "html":
            self._send(200, b"<!doctype html><title>Sign in</title>", "text/html")
        elif mode == "failing":
            self._send(200, b'data: {"error": {"message": "EngineCore died"}}\n\n', "text/event-stream")
        elif body.get("stream"):
            self._stream(mode, embeds, body)
        else:
            tokens, scores = zip(*engine.write(embeds, body), strict=True)
            values = [float(each[token]) for token, each in zip(tokens, scores, strict=True)]
            named = [] if mode == "no_named" else body.get("logprob_token_ids", ())
            top = [{f"token_id:{n}": float(each[n]) for n in named} for each in scores]
            logprobs = {"token_logprobs": values, "top_logprobs": top}
            choice = {"index": 0, "text": "", "token_ids": tokens, "logprobs": logprobs}
            self._send(200, {"choices": [choice]})

    def _stream(self, mode, embeds, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for token, _ in self.server.engine.write(embeds, body):
            ids = {} if mode == "no_ids" else {"token_ids": [token]}
            self._event({"choices": [{"index": 0, "text": "?", "finish_reason": None, **ids}]})
        self._event({"choices": [{"index": 0, "text": "", "finish_reason": "stop", "token_ids": []}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, item):
        self.wfile.write(f"data: {json.dumps(item)}\n\n".encode())
        self.wfile.flush()


@contextmanager
def serving(engine, port=0, **changes):
    """The server on a port of this machine; gives the configuration that has answers written by it."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads, server.engine = True, engine
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield EngineConfig(**{"name": "vllm", "url": url, "timeout_seconds": 20.0, "retries": 3, **changes})
    finally:
        server.shutdown()
        server.server_close()
        engine.die()
        thread.join()
