"""Checks of every request before the application reads it: host, origin, key and size; and the headers of responses."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import pages
from .refusals import Refused
from .settings import Settings

OPEN = pages.PATHS | {"/health"}  # paths that need no key
FILES = "/v1/files"
STALLED_S = 30.0  # s without a byte of a body that is not whole
FORM = 1 << 20  # bytes of an upload beside its file
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class TooLarge(HTTPException):
    """A body above its limit, or above that of all bodies."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.status, refused.message, refused.headers)
        self.refused = refused


@dataclass
class _Count:
    """Bytes of one body that were read."""

    size: int = 0


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._keys = [key.encode() for key in settings.keys]
        self._held = 0  # bytes of JSON bodies that are being read or answered
        self._forms = 0  # uploads that are being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if refused is not None:
            await answer_of(refused)(scope, receive, secured)
            return
        scope["ep.owner"] = headers.get("authorization", "")
        form, count = _is_upload(scope), _Count()
        limited = self._limited(self._most(scope), form, receive, count)
        self._forms += form
        try:
            await self._app(scope, limited, secured)
        finally:
            self._held -= count.size
            self._forms -= form

    def _refused(self, scope: Scope, headers: Headers) -> Refused | None:
        """Why a request is refused before its body is read; None for a good one."""
        hosts = self._settings.hosts
        if hosts is not None and _name(headers.get("host", "")) not in hosts:
            return Refused(403, "The Host header names another server.", code="forbidden_host")
        origin = headers.get("origin")
        if origin is not None and (origin == "null" or _place(origin) != headers.get("host")):
            return Refused(403, "Requests of pages of other sites are refused.", code="forbidden_origin")
        if self._keys and scope["path"] not in OPEN and not self._known(headers.get("authorization", "")):
            message = "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`."
            return Refused(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > self._most(scope):
            return self._too_large(self._most(scope))
        full = _is_upload(scope) and self._forms >= self._settings.bounds.uploads_at_once
        return _busy() if full else None

    def _known(self, authorization: str) -> bool:
        """Whether a request has one of the keys. Every key is compared, in constant time."""
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode("utf-8", "replace")
        matches = [hmac.compare_digest(given, one) for one in self._keys]
        return any(matches) and scheme.lower() == "bearer"

    def _most(self, scope: Scope) -> int:
        """Bytes of the body of a request at most."""
        bounds = self._settings.bounds
        return bounds.upload + FORM if scope["path"] == FILES else bounds.body

    def _limited(self, most: int, form: bool, receive: Receive, count: _Count) -> Receive:
        """The same body, up to its limit; one that is no form also up to that of all bodies."""
        size, whole = 0, False

        async def limited() -> Message:
            nonlocal size, whole
            try:
                async with asyncio.timeout(None if whole else STALLED_S):
                    message = await receive()
            except TimeoutError:
                stalled = Refused(408, f"The body stalled for {STALLED_S:g} s.", headers={"Connection": "close"})
                raise TooLarge(stalled) from None
            whole = not message.get("more_body", False)
            length = len(message.get("body", b""))
            size += length
            if size > most:
                raise TooLarge(self._too_large(most))
            if length and not form:  # an upload goes to disk
                self._held += length
                count.size += length
                if self._held > self._settings.bounds.bodies:
                    raise TooLarge(_busy())
            return message

        return limited

    def _too_large(self, most: int) -> Refused:
        message = f"The body is larger than {most} bytes. Upload clips to {FILES}."
        return Refused(413, message, code="too_large", headers={"Connection": "close"})


def _busy() -> Refused:
    wait = {"Retry-After": "5", "Connection": "close"}
    return Refused(429, "The server is busy. Try again later.", code="busy", headers=wait)


def answer_of(refused: Refused) -> JSONResponse:
    """The response of a refusal."""
    return JSONResponse(refused.body(), refused.status, refused.headers)


def _is_upload(scope: Scope) -> bool:
    return bool(scope["path"] == FILES and scope["method"] == "POST")


def _place(origin: str) -> str:
    """Name and port of an Origin header."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def refused_of(error: Any) -> Refused:
    """The refusal of an HTTPException of the framework."""
    if isinstance(error, TooLarge):
        return error.refused
    texts = {404: "There is no such endpoint.", 405: "The endpoint does not take this method."}
    detail = texts.get(error.status_code, str(error.detail))
    return Refused(error.status_code, detail, headers=dict(error.headers or {}))
