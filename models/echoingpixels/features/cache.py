"""The feature cache: encoded clips on disk, so that a later question starts at token selection.

Entries are keyed by the clip's content, the encoders' weights and the read options. Several processes may share one
folder: an entry appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..backbones.base import Features
from ..errors import DataError
from ..inputs.mel import MEL_BINS
from ..inputs.positions import Span
from ..inputs.prepare import Media
from ..media.clip import AudioTrack, Source, VideoTrack
from ..options import MediaOptions
from ..options.encoder_keep import OFF
from ..storage.folders import UNFINISHED, Entry, delete, entries_of, filling, shrink

LIMIT = 8 << 30  # bytes
ENDING = ".safetensors"
FORMAT = 4  # to be raised when an entry's layout, or the reading, preparing or encoding of clips changes
FEATURES = "features"  # the folder's name, in the user's cache or another
CLIP = 16  # digits of a key that name the clip


@dataclass(frozen=True)
class CachedClip:
    """An encoded clip: all that answering needs. `media` holds the sizes alone."""

    media: Media
    features: Features
    source: Source
    duration: float  # s


@dataclass(frozen=True)
class Slot:
    """The place of one clip's features in a cache."""

    cache: FeatureCache
    key: str

    def get(self, path: str) -> CachedClip | None:
        """The entry, for the clip now at `path`; None if there is none that can be read."""
        return self.cache.get(self.key, path)

    def put(self, clip: CachedClip) -> None:
        """Write the entry, unless it exists."""
        self.cache.put(self.key, clip)


def caches() -> Path:
    """The user's cache folder for this program, as the platform defines it."""
    return user_cache_path("echoingpixels", appauthor=False)


def default_folder() -> Path:
    """The folder of features unless another is given."""
    return caches() / FEATURES


def feature_key(mark: str, encoders: str, read: MediaOptions) -> str:
    """The key of a clip's features: its mark (`features_mark`), the encoders' mark, and the read options.

    Keys of one clip begin with the same CLIP digits.
    """
    span: list[Any] = [read.fps, read.max_frames, read.start, read.end, read.audio, read.audio_track]
    span += [] if read.hwaccel == OFF else [read.hwaccel]  # its frames may be rounded differently
    about = json.dumps([FORMAT, mark, encoders, span])
    clip, whole = (hashlib.sha256(text.encode()).hexdigest() for text in (mark, about))
    return clip[:CLIP] + whole[CLIP:]


class FeatureCache:
    """A folder of features; the least recently used ones are deleted when it grows beyond `limit` bytes."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._new = limit  # bytes written since the folder was last measured; it was never measured at first

    def get(self, key: str, path: str) -> CachedClip | None:
        """An entry, for the clip now at `path`; None if there is none that can be read."""
        file = self._file(key)
        try:
            with safe_open(file, "pt") as entry:
                about = json.loads(entry.metadata()["about"])
                tensors = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
            os.utime(file)  # used just now
            return _clip(about, tensors, path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, TypeError, KeyError):
            with suppress(OSError):  # damaged: it is made again
                file.unlink()
            return None

    def put(self, key: str, clip: CachedClip) -> None:
        """Write an entry, unless it exists. Where the folder cannot be written, the clip is encoded again next time."""
        file = self._file(key)
        if file.exists():
            return
        about = {"about": json.dumps(_about(clip))}
        tensors = {name: x.contiguous().cpu() for name, x in vars(clip.features).items() if x is not None}
        with suppress(OSError, SafetensorError):
            with filling(file.parent) as made:
                save_file(tensors, made / file.name, about)
            self._new += file.stat().st_size
            if self._new > self.limit // 16:
                shrink(self._files(ENDING), self.limit, self._files(UNFINISHED))
                self._new = 0

    def slot(self, key: str) -> Slot:
        """The place of one entry."""
        return Slot(self, key)

    def entries(self) -> list[Entry]:
        """Every entry, the longest unused first."""
        return entries_of(self._files(ENDING))

    def clips(self) -> int:
        """Number of clips with entries; a clip read with two sets of options has two entries."""
        return len({file.stem[:CLIP] for file in self._files(ENDING)})

    def clear(self) -> int:
        """Delete all entries; returns their number. DataError where that is not possible."""
        files = [*self._files(ENDING), *self._files(UNFINISHED)]
        try:
            for file in files:
                delete(file)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be deleted: {error.strerror}.", "Check the folder.") from error
        return sum(file.suffix == ENDING for file in files)

    def _files(self, ending: str) -> Iterator[Path]:
        return self.folder.glob(f"??/*{ending}")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{ENDING}"


def _about(clip: CachedClip) -> dict[str, Any]:
    media = clip.media
    mel = None if media.mel is None else media.mel.shape[1]
    source = asdict(clip.source)
    return {"span": asdict(media.span), "grid": media.grid, "mel": mel, "source": source, "duration": clip.duration}


def _clip(about: dict[str, Any], tensors: dict[str, torch.Tensor], path: str) -> CachedClip:
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
    return CachedClip(media, features, source, about["duration"])
