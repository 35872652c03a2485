"""The media path: any file that FFmpeg, soundfile or Pillow can read, to a Clip."""

from .entry import check_media, read_clip

__all__ = ["check_media", "read_clip"]
