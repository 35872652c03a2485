"""Encoded clips of a server: in memory up to a limit in bytes, and their features also on disk.

ServedClips are read in threads, ahead of the model. Requests that name one clip at the same time share its reading.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..display.pictures import shown_size
from ..display.view import ClipView, view_of
from ..encoded_clip import EncodedClip, from_cache
from ..errors import EpError, OutOfMemoryError
from ..features.cache import FeatureCache, Slot, feature_key
from ..media.clip import Clip
from ..options import MediaOptions
from ..report import StageTimes
from .engine import InferenceEngine
from .fetch import Fetcher
from .files import FileStore
from .media import Found, Places, Reference
from .readers import Readers
from .settings import Settings

Alive = Callable[[], bool]
LABEL = "\ue000"  # stands for the name of a clip in a message
FINDERS = 2  # threads
NAMES = 10_000  # uuids of clients
TICK = 1.0  # s between checks of the inference thread


class Abandoned(Exception):  # noqa: N818
    """The client left while its clip was read."""


@dataclass(frozen=True)
class ServedClip:
    """A clip of a request. `cached`: its features were in memory or on disk."""

    clip: EncodedClip
    cached: bool


class ServedClips:
    """Reads and encodes clips, and keeps the most recently used ones."""

    def __init__(
        self, engine: InferenceEngine, settings: Settings, files: FileStore, fetcher: Fetcher | None = None
    ) -> None:
        self._engine, self._bounds = engine, settings.bounds
        self._cache: FeatureCache | None = settings.cache
        self._temporary = tempfile.TemporaryDirectory(prefix="ep-serve-")
        fetcher = fetcher or Fetcher(settings.allow, self._bounds.upload, self._bounds.fetch_s)
        self._places = Places(files, fetcher, settings.roots, Path(self._temporary.name))
        self._finders = ThreadPoolExecutor(FINDERS, "ep-finder")
        self._readers = Readers(self._bounds)
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, EncodedClip] = OrderedDict()
        self._named: dict[Hashable, Hashable] = {}  # uuids of clients to keys
        self._flights: dict[Hashable, Future[EncodedClip]] = {}

    def start(self) -> None:
        """Start the processes that read clips, so that the first clip does not wait for them."""
        self._readers.start()

    def held(self, reference: Reference, options: MediaOptions, owner: str) -> Future[ServedClip | None]:
        """Find a clip in memory, in threads that never wait for the reading of another one. None if it is not there.

        Refused for an unknown upload, MediaError for a file that cannot be read.
        """
        return self._finders.submit(self._find, reference, options, owner)

    def get(self, reference: Reference, options: MediaOptions, owner: str, alive: Alive) -> Future[ServedClip]:
        """Read and encode a clip in a thread. `owner`: whose uuid it is. `alive`: whether the client still waits.

        MediaError where it cannot be read.
        """
        return self._readers.pool.submit(self._get, reference, options, owner, alive)

    def check(self, found: Found) -> Future[None]:
        """Check in a thread that a file is media. MediaError if it is not."""
        return self._readers.check(found)

    def view(self, reference: Reference, clip: EncodedClip, options: MediaOptions, alive: Alive) -> Future[ClipView]:
        """Read an encoded clip again in a thread, for display. MediaError where it cannot be read."""
        return self._readers.pool.submit(self._view, reference, clip, options, alive)

    def trim(self, all: bool = False) -> None:
        """Free memory above the limit, or all of it: KV prefixes first, which grow with the answers, then clips.

        The least recently used come first.
        """
        with self._lock:
            total = sum(clip.held_bytes for clip in self._held.values())
            most = -1 if all else self._bounds.clips
            for clip in self._held.values():
                if total > most:
                    total -= clip.held_bytes
                    clip.prefixes.clear()
                    total += clip.held_bytes
            for key in list(self._held):
                if total > most:
                    total -= self._held.pop(key).held_bytes
            self._named = {name: key for name, key in self._named.items() if key in self._held}
        self._engine.metrics.memory.set(total)

    def close(self) -> None:
        """End the worker processes and threads, and delete temporary files."""
        self._finders.shutdown(wait=False, cancel_futures=True)
        self._readers.close()
        self._temporary.cleanup()

    def _find(self, reference: Reference, options: MediaOptions, owner: str) -> ServedClip | None:
        name = (owner, reference.uuid, options)
        with self._lock:
            key = self._named.get(name)
        if key is None and reference.local:
            with self._places.found(reference.url, bool) as found:
                key = (found.mark, options)
        with self._lock:
            clip = self._held.get(key)
            if clip is not None:
                self._held.move_to_end(key)
                self._name(name, key)
        return None if clip is None else self._hit(clip)

    def _get(self, reference: Reference, options: MediaOptions, owner: str, alive: Alive) -> ServedClip:
        check = partial(_check, alive)
        with self._places.found(reference.url, check) as found:
            key = (found.mark, options)
            try:
                shown = self._once(key, partial(self._labelled, found, options, check), check)
            except EpError as error:
                raise type(error)(error.message.replace(LABEL, found.label), error.hint) from None
        with self._lock:
            self._name((owner, reference.uuid, options), key)
        return shown

    def _view(self, reference: Reference, clip: EncodedClip, options: MediaOptions, alive: Alive) -> ClipView:
        check = partial(_check, alive)
        with self._places.found(reference.url, check) as found, found.labelled(found.label):
            shown, _ = self._readers.read(found, options, check, shown_size)
        return view_of(shown, clip.media.span)

    def _name(self, name: tuple[str, str | None, MediaOptions], key: Hashable) -> None:
        """Remember what a client's own name stands for, if it gave one; the oldest of too many is forgotten."""
        if name[1] is not None:
            self._named[name] = key
            if len(self._named) > NAMES:
                del self._named[next(iter(self._named))]

    def _once(self, key: Hashable, make: Callable[[], ServedClip], check: Callable[[], None]) -> ServedClip:
        """The clip in memory, or the one that another thread is making, or a new one."""
        while True:
            with self._lock:
                held = self._held.get(key)
                if held is not None:
                    self._held.move_to_end(key)
                flight = self._flights.get(key)
                if held is None and flight is None:
                    mine = self._flights[key] = Future()
            if held is not None:
                return self._hit(held)
            if flight is None:
                return self._fly(key, mine, make)
            try:
                return self._hit(flight.result())
            except Abandoned:  # the other client left; this one may still wait
                check()

    def _fly(self, key: Hashable, flight: Future[EncodedClip], make: Callable[[], ServedClip]) -> ServedClip:
        """Make a clip for all threads that wait for it."""
        try:
            shown = make()
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.set_exception(error)
            raise
        # Later questions do not report the seconds of reading and encoding.
        rest = replace(shown.clip, time_s=StageTimes(load=shown.clip.time_s.load), cached=True, peak_bytes=None)
        with self._lock:
            self._held[key] = rest
            del self._flights[key]
        flight.set_result(rest)
        self.trim()
        return shown

    def _hit(self, clip: EncodedClip) -> ServedClip:
        self._engine.metrics.clips.labels("memory").inc()
        return ServedClip(clip, cached=True)

    def _labelled(self, found: Found, options: MediaOptions, check: Callable[[], None]) -> ServedClip:
        """As `_made`; messages have LABEL in place of the path: each waiting client has another name for the clip."""
        with found.labelled(LABEL):
            return self._made(found, options, check)

    def _made(self, found: Found, options: MediaOptions, check: Callable[[], None]) -> ServedClip:
        """The clip from its features on disk, or else from its file."""
        metrics, model = self._engine.metrics, self._engine.model
        slot = self._slot(found, options)
        cached = None if slot is None else slot.get(found.label)
        if cached is not None:
            metrics.clips.labels("disk").inc()
            return ServedClip(from_cache(model, cached, {}), cached=True)
        read, seconds = self._readers.read(found, options, check, model.frame_size)
        try:
            clip = self._encode(read, seconds, slot, check)
        except OutOfMemoryError:
            self.trim(all=True)
            clip = self._encode(read, seconds, slot, check)
        metrics.clips.labels("encoded").inc()
        metrics.spent(replace(clip.time_s, load=None))
        return ServedClip(clip, cached=False)

    def _encode(self, read: Clip, seconds: float, slot: Slot | None, check: Callable[[], None]) -> EncodedClip:
        """Encode a clip in the inference thread, while the client waits. Refused if that has stopped."""
        encoded = self._engine.call(lambda model: model.encode_pieces(read.pieces(), {"decode": seconds}, slot))
        try:
            while not wait([encoded], TICK).done:
                check()
                _ = self._engine.model
        except Exception:
            encoded.cancel()
            raise
        return encoded.result()

    def _slot(self, found: Found, options: MediaOptions) -> Slot | None:
        encoders = self._engine.model.encoders
        if self._cache is None or not encoders:
            return None
        return self._cache.slot(feature_key(found.mark, encoders, options))


def _check(alive: Alive) -> None:
    """Abandoned where the client no longer waits."""
    if not alive():
        raise Abandoned
