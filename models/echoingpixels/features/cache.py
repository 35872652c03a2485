"""What the towers made of clips, kept on disk, so that a later question starts at the sieve without decoding.

Entries are found by the clip's content, the encoders' weights, and how the clip is read. Several processes may share
one folder: an entry appears whole or not at all. Knows nothing about questions.
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
from ..storage.atomic import UNFINISHED, filling
from ..storage.lru import Entry, delete, entries_of, shrink

LIMIT = 8 << 30  # bytes
ENDING = ".safetensors"
FORMAT = 2  # to be raised when an entry's layout, or the reading, preparing or encoding of clips changes
FEATURES = "features"  # the folder's name, in the user's cache or another
CLIP = 16  # digits of a key that name the clip


@dataclass(frozen=True)
class Seen:
    """A clip after the towers: all that answering needs. Of `media` only sizes are left."""

    media: Media
    features: Features
    source: Source
    duration: float  # s


def caches() -> Path:
    """The user's cache folder for this program, as the platform defines it."""
    return user_cache_path("echoingpixels", appauthor=False)


def default_folder() -> Path:
    """Where features are kept unless another folder is given."""
    return caches() / FEATURES


def seen_key(mark: str, towers: str, read: MediaOptions) -> str:
    """The key of a clip's features: its mark (`features_mark`), the encoders' (`Weights.encoders`), and how it is read.

    Keys of one clip begin with the same CLIP digits.
    """
    span = [read.fps, read.max_frames, read.start, read.end, read.audio, read.audio_track]
    about = json.dumps([FORMAT, mark, towers, span])
    clip, whole = (hashlib.sha256(text.encode()).hexdigest() for text in (mark, about))
    return clip[:CLIP] + whole[CLIP:]


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
        """Keep an entry, unless it is kept. Where the folder cannot be written, the clip is encoded again next time."""
        file = self._file(key)
        if file.exists():
            return
        about = {"about": json.dumps(_about(seen))}
        tensors = {name: x.contiguous().cpu() for name, x in vars(seen.features).items() if x is not None}
        with suppress(OSError, SafetensorError):
            with filling(file.parent) as made:
                save_file(tensors, made / file.name, about)
            self._new += file.stat().st_size
            if self._new > self.limit // 16:
                shrink(self._files(ENDING), self.limit, self._files(UNFINISHED))
                self._new = 0

    def entries(self) -> list[Entry]:
        """Every entry, the longest unused first."""
        return entries_of(self._files(ENDING))

    def clips(self) -> int:
        """How many clips have entries; a clip that is read in two ways has two."""
        return len({file.stem[:CLIP] for file in self._files(ENDING)})

    def clear(self) -> int:
        """Delete all entries; returns how many. DataError where that is not possible."""
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
