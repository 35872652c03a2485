"""The settings of a server, and the limits on what a request may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..features.cache import FeatureCache
from ..options import AskOptions, MediaOptions
from .addresses import Pattern


@dataclass(frozen=True)
class Bounds:
    """Limits. Sizes are in bytes.

    `upload`: one clip that is uploaded or fetched; `uploads`: all uploads, of which the least recently used is deleted
    first. `body`: the JSON of one request, with its inline clips; `bodies`: of all requests that are being read.
    `waiting`: requests that are not answered yet. `rows`: questions in one batch. `clips`: encoded clips in memory.
    `frames`, `tokens`, `parts`, `characters`: of one request; `prompt`: tokens of its prompt before selection.
    `seconds`: of one clip. `read_s`: s to read one clip, `fetch_s` to fetch one.
    `grace_s`: s to finish running requests when the server stops. `expiry_s`: s until an upload is deleted.
    """

    upload: int = 2 << 30
    uploads: int = 16 << 30
    uploads_at_once: int = 4
    expiry_s: float = 24 * 3600.0
    body: int = 64 << 20
    bodies: int = 512 << 20
    waiting: int = 64
    rows: int = 16
    clips: int = 2 << 30
    readers: int = 4
    workers: int = 2
    frames: int = 1024
    tokens: int = 4096
    parts: int = 16
    characters: int = 200_000
    prompt: int = 131_072
    seconds: float = 4 * 3600.0
    read_s: float = 600.0
    fetch_s: float = 60.0
    grace_s: float = 30.0


@dataclass(frozen=True)
class Settings:
    """A server.

    `model`: its name for clients. `ask`, `read`: the options of a request that does not change them. `uploads`: the
    folder of uploaded clips. `roots`: folders whose files clients may name. `allow`: addresses that may be fetched.
    `keys`: of clients; without any, all may ask. `hosts`: names of the server that requests may use (None: any).
    """

    model: str
    uploads: Path
    ask: AskOptions = field(default_factory=AskOptions)
    read: MediaOptions = field(default_factory=MediaOptions)
    cache: FeatureCache | None = None
    roots: tuple[Path, ...] = ()
    allow: tuple[Pattern, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    hosts: frozenset[str] | None = None
    bounds: Bounds = Bounds()
