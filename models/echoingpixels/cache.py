"""What the towers made of clips, kept on disk, so that a later question starts at the sieve without decoding.

Entries are found by content: of the clip, of the weights, and of how the clip is read. Several processes may share one
folder: an entry appears whole or not at all. Knows nothing about questions.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .backbones.base import Features
from .clip import AudioTrack, Source, VideoTrack
from .errors import DataError
from .inputs import Media
from .mel import MEL_BINS
from .options import MediaOptions
from .positions import Span

LIMIT = 8 << 30  # bytes
ENDING = ".safetensors"
FORMAT = 1  # to be raised when an entry's layout or the preparing of clips changes
STALE = 3600  # s after which an entry that another process never finished is cleared away


@dataclass(frozen=True)
class Seen:
    """A clip after the towers: all that answering needs. Of `media` only sizes are left."""

    media: Media
    features: Features
    source: Source
    duration: float  # s


def caches() -> Path:
    """Our folder where the platform keeps caches: XDG_CACHE_HOME or ~/.cache, ~/Library/Caches, or %LOCALAPPDATA%."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        given = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"  # as the XDG specification has it
    return base / "echoingpixels"


def default_folder() -> Path:
    """Where features are kept unless another folder is given."""
    return caches() / "features"


def seen_key(mark: str, towers: str, read: MediaOptions) -> str:
    """The key of a clip's features: its content's mark, the towers' (`Weights.towers`), and how it is read."""
    span = [read.fps, read.max_frames, read.start, read.end, read.audio, read.audio_track]
    return hashlib.sha256(json.dumps([FORMAT, mark, towers, span]).encode()).hexdigest()


class FeatureCache:
    """A folder of features, the least recently used of which go when it grows beyond `limit` bytes."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._new = limit  # bytes written since the folder was last measured; at first it never was

    def get(self, key: str, path: str) -> Seen | None:
        """An entry, for the clip now at `path`; None if there is none that can be read."""
        file = self._file(key)
        try:
            with safe_open(file, "pt") as entry:
                about = json.loads(entry.metadata()["about"])
                tensors = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
            os.utime(file)  # used just now
            return _seen(about, tensors, path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, TypeError, KeyError):
            with suppress(OSError):  # damaged: it is made again
                file.unlink()
            return None

    def put(self, key: str, seen: Seen) -> None:
        """Keep an entry. Where the folder cannot be written, the clip is merely encoded again next time."""
        about = {"about": json.dumps(_about(seen))}
        tensors = {name: x.contiguous().cpu() for name, x in vars(seen.features).items() if x is not None}
        with suppress(OSError, SafetensorError):
            file = self._file(key)
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(suffix=".new", dir=file.parent)
            os.close(handle)
            try:
                save_file(tensors, name, about)
                self._new += os.stat(name).st_size
                os.replace(name, file)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name)
            if self._new > self.limit // 16:
                self._shrink()

    def entries(self) -> list[tuple[Path, int, float]]:
        """Every entry with its bytes and when it was last used (s since 1970), the longest unused first."""
        found = []
        for file in self._files(ENDING):
            with suppress(OSError):  # another process cleared it away
                info = file.stat()
                found.append((file, info.st_size, info.st_mtime))
        return sorted(found, key=lambda one: one[2])

    def clear(self) -> int:
        """Delete all entries; returns how many. DataError where that is not possible."""
        files = [*self._files(ENDING), *self._files(".new")]
        try:
            for file in files:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be deleted: {error.strerror}.", "Check the folder.") from error
        return sum(file.suffix == ENDING for file in files)

    def _shrink(self) -> None:
        entries = self.entries()
        excess = sum(size for _, size, _ in entries) - self.limit
        self._new = 0
        for file, size, _ in entries:
            if excess <= 0:
                break
            with suppress(OSError):
                file.unlink()
            excess -= size
        newest = entries[-1][2] if entries else 0.0
        for file in self._files(".new"):
            with suppress(OSError):
                if file.stat().st_mtime < newest - STALE:
                    file.unlink()

    def _files(self, ending: str) -> Iterator[Path]:
        return self.folder.glob(f"??/*{ending}")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{ENDING}"


def _about(seen: Seen) -> dict[str, Any]:
    media = seen.media
    mel = None if media.mel is None else media.mel.shape[1]
    source = asdict(seen.source)
    return {"span": asdict(media.span), "grid": media.grid, "mel": mel, "source": source, "duration": seen.duration}


def _seen(about: dict[str, Any], tensors: dict[str, torch.Tensor], path: str) -> Seen:
    span = Span(**{**about["span"], "times": tuple(about["span"]["times"])})
    mel = None if about["mel"] is None else torch.empty(MEL_BINS, about["mel"], device="meta")
    media = Media(span, None, None if about["grid"] is None else tuple(about["grid"]), mel)
    kept, video, audio = about["source"], about["source"]["video"], about["source"]["audio"]
    source = replace(
        Source(**{**kept, "warnings": tuple(kept["warnings"]), "notes": tuple(kept["notes"])}),
        path=path,
        video=None if video is None else VideoTrack(**{**video, "size": tuple(video["size"])}),
        audio=None if audio is None else AudioTrack(**audio),
    )
    features = Features(**{"video": None, "audio": None, **tensors})
    return Seen(media, features, source, about["duration"])
