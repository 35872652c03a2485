"""A server whose models are replicas on Ray Serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...model import EchoingPixels
from ..readers import Readers
from ..server import HttpServer, file_store
from ..settings import Settings
from .deployment import RayDeployment
from .pool import Deployment, ReplicaPool


class ReplicaServer(HttpServer[ReplicaPool, Readers]):
    """One server for several replicas: HTTP, keys, limits and uploads are its own, models and clips are theirs."""

    def __init__(self, settings: Settings, deployment: Deployment, replicas: int) -> None:
        pool = ReplicaPool(deployment, settings.bounds, replicas)
        super().__init__(settings, pool, Readers(settings.bounds), file_store(settings), pool.admit)


def on_ray(
    settings: Settings, load: Callable[[], EchoingPixels], replicas: int, device: str, **own: Any
) -> ReplicaServer:
    """A server of `replicas` replicas on Ray Serve."""
    return ReplicaServer(settings, RayDeployment(settings, load, replicas, device, **own), replicas)
