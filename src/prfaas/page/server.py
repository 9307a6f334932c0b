"""Serves the page: its files, all that is kept, and what is new as server-sent events."""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec
from aiohttp import web

from prfaas.page.records import History, Tick

PREFIX = "/ui"
_TYPES = {".html", ".css", ".js", ".svg", ".txt", ".md"}
_MOST_PAGES = 64
"""Open at once; each costs an encoded tick a second, which is made once for all."""
_QUEUED = 8
"""Ticks that a slow browser may be behind; then it is let go, and reads the history again."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def is_page(path: str) -> bool:
    """Whether it is one of the page's paths; those that tell something ask for a key themselves."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def static_files() -> dict[str, Path]:
    """Path below ``/ui`` -> the file. Read from the package once: nothing else can be asked for."""
    root = Path(str(files("prfaas.page").joinpath("static")))
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if path.suffix in _TYPES}


class PageServer:
    """Routes under ``/ui``. The files are open to all, as they say nothing of a deployment.

    Args:
        check: raises for a request that may not see the deployment.
        still: whether one that might see it still may: its key may be gone by the next tick.
        history: all that is kept, now.
    """

    def __init__(
        self,
        *,
        check: Callable[[web.Request], None],
        still: Callable[[web.Request], bool],
        history: Callable[[], History],
    ) -> None:
        self._check, self._still, self._history = check, still, history
        self._files = {name: path.read_bytes() for name, path in static_files().items()}
        self._packed = {name: gzip.compress(body) for name, body in self._files.items()}
        self._pages: set[asyncio.Queue[bytes | None]] = set()

    def add_routes(self, app: web.Application) -> None:
        """Serve them."""
        app.router.add_get(PREFIX, self.moved)
        app.router.add_get(f"{PREFIX}/history", self.history)
        app.router.add_get(f"{PREFIX}/stream", self.stream)
        app.router.add_get(f"{PREFIX}/{{name:.*}}", self.file)

    def tell(self, tick: Tick) -> None:
        """Hand a tick to every page that is open."""
        if not self._pages:
            return
        event = b"data: " + msgspec.json.encode(tick) + b"\n\n"
        for page in list(self._pages):
            try:
                page.put_nowait(event)
            except asyncio.QueueFull:
                self._let_go(page)

    def close(self) -> None:
        """End every stream, so that a server that stops need not wait for them."""
        for page in list(self._pages):
            self._let_go(page)

    async def moved(self, _request: web.Request) -> web.Response:
        """``/ui``: relative addresses need the slash."""
        return web.Response(status=308, headers={"Location": f"{PREFIX}/"})

    async def file(self, request: web.Request) -> web.Response:
        """One of the page's files."""
        name = request.match_info["name"] or "index.html"
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        headers = {**_HEADERS, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = self._packed[name]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    async def history(self, request: web.Request) -> web.Response:
        """All that is kept, compressed: it is megabytes after some hours."""
        self._check(request)
        history = self._history()
        body = await asyncio.to_thread(_compressed, history)
        headers = {"Content-Encoding": "gzip", "Cache-Control": "no-store"}
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """A tick a second until the page is closed, or its key is good no longer."""
        self._check(request)
        if len(self._pages) >= _MOST_PAGES:
            raise web.HTTPServiceUnavailable(reason="too many pages are open")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        response.headers["X-Accel-Buffering"] = "no"
        page: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED)
        self._pages.add(page)
        try:
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            while (event := await page.get()) is not None and self._still(request):
                await response.write(event)
        except ConnectionError:
            pass  # The browser has gone.
        finally:
            self._pages.discard(page)
        return response

    def _let_go(self, page: asyncio.Queue[bytes | None]) -> None:
        self._pages.discard(page)
        while not page.empty():
            page.get_nowait()
        page.put_nowait(None)


def _compressed(history: History) -> bytes:
    return gzip.compress(msgspec.json.encode(history), compresslevel=4)
