"""The clips of a folder, by file extension."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import MediaError

# Without still images: next to clips they are covers and plots. One that is named itself is read.
VIDEO = "3gp asf avi flv m2ts m4v mjpeg mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
SOUND = "aac aif aiff amr caf flac m4a mka mp3 oga ogg opus wav wma"
ENDINGS = frozenset(f"{VIDEO} {SOUND}".split())


def find_clips(path: Path, check: Callable[[Path], None] | None = None) -> list[Path]:
    """The file itself, or every video and audio file of a folder and its subfolders, sorted, without hidden ones.

    `check` raises the MediaError for a file that cannot be read: a worker's method, or `check_media` by default.
    MediaError also for a folder without clips.
    """
    if not path.is_dir():
        if check is not None:
            check(path)
        else:
            from .reader import check_media

            check_media(path)
        return [path]
    clips = sorted(file for file in path.rglob("*") if _is_clip(file, path))
    if not clips:
        raise MediaError(f"{path} holds no video or audio file.", f"Known endings: {VIDEO} {SOUND}.")
    return clips


def _is_clip(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower()[1:] in ENDINGS and file.is_file()
