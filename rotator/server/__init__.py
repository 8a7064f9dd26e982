"""The daemon's HTTP endpoints: metrics, probes, health for people and the status page. All of it only reads.

`rotator run` calls `serve` with callables that tell what is to be shown. Nothing here decides anything, and no request
can change, start or delay anything in the engine. What is heavy (uvicorn, Jinja2) is imported by `serve`, not before.
"""

from rotator.server.endpoints import Endpoints
from rotator.server.serving import Serving, serve

__all__ = ["Endpoints", "Serving", "serve"]
