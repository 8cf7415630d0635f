"""Who asks: log-ins by a form or by a proxy's header, log-outs, and the lines about them in the audit log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from skingpt4.chat.texts import Texts
from skingpt4.server.access import login_page
from skingpt4.server.access.logins import (
    IDLE_SECONDS,
    MAX_LENGTH,
    MAX_LOGINS,
    MAX_SECONDS,
    Access,
    Logins,
    NotAllowed,
    TooSoon,
)
from skingpt4.server.access.peer import client_address, peer_address, request_is_https
from skingpt4.server.access.sessions import Owner
from skingpt4.server.address import is_in
from skingpt4.server.guard import refusal
from skingpt4.support.errors import UserError

logger = logging.getLogger(__name__)
BLANKS = " \t"  # around a header's value by HTTP; other blanks belong to the name of somebody else


class Refused(Exception):
    """A request that is not answered; its response says why."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Visitors:
    """Those who come to one server.

    Args:
        access: who may.
        texts: in which refusals are said.
        cookie: the name of the log-in's cookie, which no other server on this machine uses.
        pages: the paths of the server's pages.
        end_pages: ends the open pages of an owner.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        access: Access,
        texts: Texts,
        cookie: str,
        pages: Collection[str],
        end_pages: Callable[[Owner], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access, self._texts, self._cookie, self._pages = access, texts, cookie, pages
        self._end_pages = end_pages
        self._clock, self._logins = clock, Logins(access, clock)
        self._by_header: dict[Owner, float] = {}  # when each last asked, those that did so lately at the end

    @property
    def has_form(self) -> bool:
        """Whether they log in here, not at a proxy."""
        return self._access.header is None

    async def user(self, request: Request, browser: str, reads: bool) -> str:
        """The name of the user who asks.

        Args:
            request: any but a log-in.
            browser: its cookie.
            reads: whether the request changes nothing.

        Raises:
            Refused: nobody is logged in, or not any more, or it cannot be found out.
        """
        try:
            if self._access.header is not None:
                return await self._user_in_header(request, browser, self._access.header)
            self._end_if_revoked(request, browser)
            user = self._logins.user(self._token(request))
        except UserError as error:
            logger.error("log-in: %s", error)
            raise Refused(self._refusal(503, "log_in_not_now")) from None
        if not user:
            path = request.scope["path"]
            raise Refused(
                self.form(request, path)
                if reads and path in self._pages
                else self._refusal(401, "logged_out")
            )
        return user

    def may_go_on(self, request: Request, browser: str) -> bool:
        """Whether a page that has been open for a while still may be; ends the pages of a user who may not."""
        try:
            if self._access.header is not None:
                name = request.headers.get(self._access.header, "").strip(BLANKS)
                if self._access.stamp(name) is not None:
                    return True
                self._end_pages((name, browser))
                return False
            return not self._end_if_revoked(request, browser)
        except UserError:  # the next request says so
            return True

    def _end_if_revoked(self, request: Request, browser: str) -> bool:
        token = self._token(request)
        user = self._logins.revoked(token)
        if user is not None:
            self._logins.log_out(token)
            self._end_pages((user, browser))
        return user is not None

    def _token(self, request: Request) -> str:
        return request.cookies.get(self._cookie, "")

    def _refusal(self, status: int, key: str) -> Response:
        return refusal(status, self._texts[f"server.{key}"], key)

    # ---- the form

    def form(self, request: Request, page: str, status: int = 200, problem: str = "") -> Response:
        """The form that leads to a page; `problem` says why the last try was refused."""
        root = request.scope.get("root_path", "")
        return login_page.response(self._texts, self._access.message, root, page, status, problem)

    async def log_in(self, request: Request, body: bytes, browser: str) -> Response:
        """Check what the form sent, and lead to the page.

        Raises:
            Refused: it cannot be read, or not be checked now.
        """
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
        except ValueError:
            raise Refused(self._refusal(400, "no_json")) from None
        name, password, page = (fields.get(key, [""])[0] for key in ("username", "password", "page"))
        name, page = name.strip(), page if page in self._pages else "/"
        from_form = "text/html" in request.headers.get("accept", "")
        token, status, headers = None, 400, {}
        try:
            token, problem = await self._try(request, name, password, browser)
        except TooSoon as error:
            status, problem = 429, self._texts("server.too_soon", seconds=error.seconds)
            headers = {"retry-after": str(error.seconds)}
        except UserError as error:  # the list of users or the audit log cannot be used: the terminal says why
            logger.error("log-in: %s", error)
            status, problem = 503, self._texts["server.log_in_not_now"]
        if token is not None:
            return self._to_page(request, page, token, MAX_SECONDS, from_form)
        response = self.form(request, page, status, problem) if from_form else refusal(status, problem)
        response.headers.update(headers)
        return response

    async def _try(self, request: Request, name: str, password: str, browser: str) -> tuple[str | None, str]:
        """A token, or None and why not; either stands in the audit log when this returns.

        Raises:
            TooSoon: it was not looked at.
            UserError: it cannot be checked, or not be logged.
        """
        address = client_address(request.scope)
        try:
            token = await self._logins.log_in(name, password, browser, address)
            why, problem = "wrong name or password", self._texts["server.wrong_login"]
        except NotAllowed:
            token, why, problem = None, "role", self._texts["server.not_allowed"]
        if token is None:
            # A name that is not a user's may be a password that was typed into the wrong field.
            user = name if self._access.knows(name) else "not known"
            wait = self._logins.wait(name, browser, address)
            await self._log("log_in_failed", request, user, why=why, wait_seconds=wait)
            return None, problem
        try:
            await self._log("log_in", request, name)
        except UserError:
            self._logins.log_out(token)
            raise
        return token, ""

    async def log_out(self, request: Request, owner: Owner) -> Response:
        """End a log-in and its pages."""
        self._logins.log_out(self._token(request))
        self._by_header.pop(owner, None)
        self._end_pages(owner)
        try:
            await self._log("log_out", request, owner[0])
        except UserError as error:
            logger.error("log-out: %s", error)  # whoever wants to leave may
        return self._to_page(request, "/", "", 0)

    def _to_page(
        self, request: Request, page: str, token: str, seconds: int, from_form: bool = True
    ) -> Response:
        """Set or delete the log-in's cookie and lead to a page; a program gets JSON."""
        root = request.scope.get("root_path", "")
        response = RedirectResponse(root + page, 303) if from_form else JSONResponse({"success": True})
        secure = request_is_https(request.scope)
        response.set_cookie(
            self._cookie, token, seconds, path=f"{root}/", httponly=True, samesite="strict", secure=secure
        )
        return response

    # ---- the audit log

    async def _log(self, event: str, request: Request, user: str, **facts: Any) -> None:
        """Append a line, in a thread, since it waits for the disk.

        Raises:
            UserError: it cannot be written.
        """
        address = client_address(request.scope)
        await anyio.to_thread.run_sync(partial(self._access.log, event, user=user, address=address, **facts))

    # ---- a proxy's header

    async def _user_in_header(self, request: Request, browser: str, header: str) -> str:
        names = request.headers.getlist(header)
        if (
            not is_in(peer_address(request.scope), self._access.proxies)
            or len(names) != 1
            or not names[0].strip()
        ):
            raise Refused(self._refusal(401, "not_by_proxy"))
        name = names[0].strip(BLANKS)
        owner, now = (name, browser), self._clock()
        if len(name) > MAX_LENGTH or self._access.stamp(name) is None:
            self._end_pages(owner)
            raise Refused(self._refusal(403, "not_allowed"))
        last = self._by_header.pop(owner, None)
        if request.scope["path"] in self._pages and (last is None or now - last > IDLE_SECONDS):
            await self._log("log_in", request, name, by=header)
            last = now
        if last is not None:
            self._by_header[owner] = now
        while len(self._by_header) > MAX_LOGINS:
            del self._by_header[next(iter(self._by_header))]
        return name
