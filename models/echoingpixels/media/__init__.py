"""The media path: any file that FFmpeg or Pillow can read, to a Clip."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .entry import Reader as Reader
    from .entry import check_media as check_media
    from .entry import read_clip as read_clip
    from .entry import stream_clip as stream_clip
    from .folder import find_clips as find_clips
    from .worker import Limits as Limits
    from .worker import Worker as Worker

_HOMES = {
    "Limits": "worker",
    "Reader": "entry",
    "Worker": "worker",
    "check_media": "entry",
    "find_clips": "folder",
    "read_clip": "entry",
    "stream_clip": "entry",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imported when first used: whoever has a worker read does not need FFmpeg itself."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
