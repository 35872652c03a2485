"""Media files to clips: every file that FFmpeg or Pillow reads becomes a Clip."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import find_clips as find_clips
    from .reader import Reader as Reader
    from .reader import check_media as check_media
    from .reader import read_clip as read_clip
    from .reader import stream_clip as stream_clip
    from .sandbox.worker import Limits as Limits
    from .sandbox.worker import Worker as Worker

_HOMES = {
    "Limits": "sandbox.worker",
    "Reader": "reader",
    "Worker": "sandbox.worker",
    "check_media": "reader",
    "find_clips": "folder",
    "read_clip": "reader",
    "stream_clip": "reader",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a program that reads through a worker needs no FFmpeg."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
