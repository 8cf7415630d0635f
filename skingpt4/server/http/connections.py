"""Connections that cost little whatever their clients do: each step of a client has a time limit, and a size.

uvicorn ends a connection only some seconds after an answer, and only if the client is silent. Here one is also ended
if a request's head does not come in time, if an answer is not read, and if others need its place. h11 takes time for
each header and each chunk of a body, so both are limited before it reads more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict
from itertools import chain
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = (
    1024  # connections that wait to be accepted; a client beyond them tries again after a second or more
)
MAX_CONNECTIONS = 512
LEFT_SECONDS = 0.02  # for closing connections that were left, until others have their turn
MAX_REFUSED = 32  # that are held for REFUSED_SECONDS
MAX_HEAD_BYTES = 16 * 2**10
HEAD_SECONDS = 30.0  # from the connection, or the last answer, to the end of the next request's head
REFUSED_SECONDS = 1.0  # after what is not HTTP
WRITE_SECONDS = 30.0  # for which a client may leave an answer unread
# After the first chunks of a body, their mean size must be at least this.
FREE_CHUNKS, MIN_CHUNK_BYTES = 16, 256
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8  # Linux's include/net/tcp_states.h


class _Open:
    """The open connections of a server, in the order in which they give their places to others."""

    def __init__(self) -> None:
        self.refused: dict[Connection, None] = {}
        # At the end the last one that came or was answered.
        self.all: OrderedDict[Connection, None] = OrderedDict()

    def give_place(self) -> None:
        """End one that waits for its client: the first refused one, else the one that has waited for longest.

        Many refused ones are held for a moment. On a busy machine the request of an honest client may be unread for
        longer than that.
        """
        next(each for each in chain(self.refused, self.all) if each.waits_for_client).abort()

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.refused.pop(connection, None)
        self.all.pop(connection, None)


_open: WeakKeyDictionary[asyncio.AbstractEventLoop, _Open] = WeakKeyDictionary()


class Listening(socket.socket):
    """The server's socket; connections that their clients have closed again are not handed on.

    To connect, send and leave costs a client an eighth of what it costs a server to find that out from h11, so one
    client could fill the line of those that wait to be accepted, and keep everybody else out of it.
    """

    def listen(self, backlog: int = BACKLOG, /) -> None:
        """Let BACKLOG connections wait; asyncio means by `backlog` also how many it accepts before it reads again.

        Those accepted at once must be fewer than MAX_CONNECTIONS, or they end each other before they are read.
        """
        super().listen(BACKLOG)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: nobody waits, or many that waited had left; the event loop comes again after others.
        """
        deadline = time.monotonic() + LEFT_SECONDS
        while True:
            connection, address = super().accept()
            if not _is_left(connection):
                return connection, address
            connection.close()
            if time.monotonic() > deadline:
                raise BlockingIOError


def _is_left(connection: socket.socket) -> bool:
    """Whether the client will send no more than it has, which for uvicorn ends a connection; False if unknown."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] in (TCP_CLOSE, TCP_CLOSE_WAIT)


class _Parser(h11.Connection):
    """h11's parser, which refuses bodies of a great many tiny chunks, and of two lengths.

    A proxy in front may go by the other one, and take the rest of a body for somebody else's request.
    """

    num_chunks = num_body_bytes = 0
    is_chunked = False

    @property
    def is_in_plain_body(self) -> bool:
        """Whether what comes is bytes of a body whose length is known: the head of a request is far."""
        return self.their_state is h11.SEND_BODY and not self.is_chunked

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.num_chunks = self.num_body_bytes = 0
            names = {name for name, _ in event.headers}
            self.is_chunked = b"transfer-encoding" in names
            if self.is_chunked and b"content-length" in names:
                self._refuse("the body has two lengths")
        elif isinstance(event, h11.Data):
            self.num_chunks += event.chunk_start
            self.num_body_bytes += len(event.data)
            if self.num_chunks > FREE_CHUNKS and self.num_body_bytes < self.num_chunks * MIN_CHUNK_BYTES:
                self._refuse("the chunks of the body are too small")
        return event

    def _refuse(self, why: str) -> NoReturn:
        self._process_error(self.their_role)
        raise h11.RemoteProtocolError(why)


class Connection(H11Protocol):
    """One client's connection."""

    conn: _Parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Parser(h11.SERVER, MAX_HEAD_BYTES)
        self._answer, self.app = self.app, self._answer_unless_refused
        self._open = _open.setdefault(self.loop, _Open())
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits_for_client(self) -> bool:
        """Whether a request, or the rest of one, is still to come."""
        return self.is_idle or self.cycle.more_body

    @property
    def is_refused(self) -> bool:
        """Whether its client sent what is not HTTP; the connection only waits for its end."""
        return self.conn.their_state is h11.ERROR

    async def _answer_unless_refused(self, scope: Any, receive: Any, send: Any) -> None:
        """The application gets no request whose body was refused before its turn came."""
        if not self.is_refused:
            await self._answer(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """If there are too many, another one ends."""
        super().connection_made(transport)
        self._open.all[self] = None
        if len(self._open.all) > MAX_CONNECTIONS:
            self._open.give_place()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        for timer in filter(None, [self._head_timer, self._write_timer]):
            timer.cancel()
        self._open.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, so that a head is never larger than its limit, however it arrives."""
        while data and not self.transport.is_closing() and self.conn.their_state is not h11.ERROR:
            size = len(data) if self.conn.is_in_plain_body else MAX_HEAD_BYTES
            super().data_received(data[:size])
            data = data[size:]

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; without words if an answer has begun.

        The connection ends a moment later, so that a client that does this again and again does it slowly.
        """
        self.transport.pause_reading()
        self.loop.call_later(REFUSED_SECONDS, self.abort)
        self._open.refused[self] = None
        if len(self._open.refused) > MAX_REFUSED:
            next(iter(self._open.refused)).abort()
        if self.cycle is not None:  # nothing more is read of the body that it waits for
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        with contextlib.suppress(h11.LocalProtocolError):
            headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
            response = h11.Response(status_code=400, headers=headers, reason="Bad Request")
            for event in (response, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))

    def on_response_complete(self) -> None:
        """Expect the next request; whoever has sent more without waiting for the answer must connect again."""
        self._await_head()
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def abort(self) -> None:
        """End the connection at once."""
        self._open.remove(self)
        self.connections.discard(self)
        self.transport.abort()

    def _await_head(self) -> None:
        if self in self._open.all:
            self._open.all.move_to_end(self)
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.is_idle:
            self.abort()
