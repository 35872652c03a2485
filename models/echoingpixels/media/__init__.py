"""The media path: any file that FFmpeg, soundfile or Pillow can read, to a Clip."""

from .entry import check_media, read_clip
from .folder import find_clips

__all__ = ["check_media", "find_clips", "read_clip"]
