"""Which files of a folder are clips, by their names. Knows nothing about what is in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import MediaError

# Still images are left out: beside clips they are covers and plots. One is read where it is named itself.
VIDEO = "3gp asf avi flv m2ts m4v mjpeg mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
SOUND = "aac aif aiff amr caf flac m4a mka mp3 oga ogg opus wav wma"
ENDINGS = frozenset(f"{VIDEO} {SOUND}".split())


def find_clips(path: Path, check: Callable[[Path], None] | None = None) -> list[Path]:
    """The file itself, or every video and sound file in a folder and those below it, sorted, hidden ones left out.

    MediaError for a file that cannot be read, which `check` tells (a worker's; `check_media` if left out), and for a
    folder without any.
    """
    if not path.is_dir():
        if check is not None:
            check(path)
        else:
            from .reader import check_media

            check_media(path)
        return [path]
    found = sorted(file for file in path.rglob("*") if _is_clip(file, path))
    if not found:
        raise MediaError(f"{path} holds no video or sound file.", f"Known endings: {VIDEO} {SOUND}.")
    return found


def _is_clip(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower()[1:] in ENDINGS and file.is_file()
