"""What people see in a browser: files of the package, and headers that let them load nothing from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FILES = Path(__file__).parent / "page"
HEADERS = {
    # Nothing inline and nothing from another host; what a model writes could not run even if it became markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for again each time, so that an upgraded server is not met by scripts of the old one.
    "Cache-Control": "no-cache",
}


class _PageFiles(StaticFiles):
    """Files with these headers."""

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(HEADERS)
        return response


def add_pages(app: FastAPI) -> None:
    """Puts the page at ``/``, that of the API at ``/docs``, and what they load at ``/static``."""

    async def page() -> Response:
        return FileResponse(FILES / "index.html", headers=HEADERS)

    async def docs() -> Response:
        return FileResponse(FILES / "docs.html", headers=HEADERS)

    app.get("/", include_in_schema=False)(page)
    app.get("/docs", include_in_schema=False)(docs)
    app.mount("/static", _PageFiles(directory=FILES))
