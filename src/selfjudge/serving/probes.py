"""Endpoints for those who watch the server itself."""

from __future__ import annotations

import prometheus_client
from fastapi import Response


async def healthz() -> Response:
    """Tell that the process is alive."""
    return Response("ok", media_type="text/plain")


async def metrics() -> Response:
    """Tell Prometheus the metrics."""
    return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)
