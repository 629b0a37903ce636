"""Answering by tournament over HTTP, as OpenAI's API: `selfjudge serve`."""

from __future__ import annotations

from selfjudge.errors import MissingExtraError

try:
    import fastapi as fastapi
    import prometheus_client as prometheus_client
    import sqlalchemy as sqlalchemy
    import uvicorn as uvicorn
except ImportError as e:
    raise MissingExtraError("Serving", "serve") from e
