"""The timeline of one SyncClips clip: its events, from which questions, frames and audio are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["object", "sound", "word"]
REGIMES = ("balanced", "watch", "listen", "busy")
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Pose:
    """How a sprite is drawn: size as a share of the short side, path in shares of the quadrant's free room."""

    size: float
    start: tuple[float, float]
    end: tuple[float, float]
    tilt: float  # degrees
    flip: bool
    brightness: float


@dataclass(frozen=True)
class Event:
    """An object, sound or word over [start, end) seconds; `take` is the recording, `corner` the object's quadrant."""

    what: str
    kind: Kind
    start: float
    end: float
    corner: str | None = None
    take: int = 0
    pose: Pose | None = None
    pitch: float = 1.0
    gain: float = 0.0  # dB relative to the track's level

    @property
    def length(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start


@dataclass(frozen=True)
class Look:
    """The frames without sprites. `seed` draws the background; amplitudes are shares of full brightness."""

    seed: int
    background: str  # one of BACKGROUNDS, or "black"
    brightness: float
    drift: float
    drift_s: float  # period of the brightness drift, seconds
    pan: tuple[float, float]  # travel of the background over the clip, shares of its margin
    grain: float  # standard deviation of per-frame noise, 8-bit levels


@dataclass(frozen=True)
class Field:
    """A textured picture larger than the frame, from `start` seconds on. Speeds are shares of the short side a second.

    `texture` is one of TEXTURES; `seed` draws it. `zoom` is the growth a second, `shake` the amplitude as a share of
    the short side and `shake_hz` its frequency.
    """

    texture: str
    seed: int
    start: float
    pan: tuple[float, float]
    zoom: float
    shake: float
    shake_hz: float


@dataclass(frozen=True)
class FlatShape:
    """A flat shape that drifts and turns: a polygon, or an ellipse with 0 sides. Lengths: shares of the short side."""

    sides: int
    radius: float
    aspect: float
    colour: tuple[int, int, int]
    place: tuple[float, float]  # at 0 s, shares of the frame
    drift: tuple[float, float]  # a second
    turn: float  # degrees a second


@dataclass(frozen=True)
class Surroundings:
    """The picture of regime `busy` behind its objects: fields one after the other, and shapes in front of them."""

    fields: tuple[Field, ...]
    shapes: tuple[FlatShape, ...]


@dataclass(frozen=True)
class Bed:
    """A sound over the whole clip, `below` dB under the quietest event. `kind` is one of BEDS; `seed` draws it."""

    kind: str
    below: float
    seed: int
    swell: float  # share of the level
    swell_s: float  # period, seconds


@dataclass(frozen=True)
class Track:
    """The audio track: its encoding, and a noise floor `snr` dB under the quietest event. Level in dB full scale."""

    codec: str
    rate: int
    channels: int
    level: float
    snr: float
    noise: str
    seed: int
    balance: float  # -1 left … 1 right, used when there are two channels
    bed: Bed | None = None


@dataclass(frozen=True)
class Timeline:
    """One clip: `frames` frames of width × height px at `fps`, `events` sorted by start, `track` None without audio."""

    seed: int
    index: int
    regime: str
    frames: int
    fps: float
    width: int
    height: int
    container: str
    codec: str
    look: Look
    track: Track | None
    events: tuple[Event, ...]
    surroundings: Surroundings | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps

    def of(self, kind: Kind) -> tuple[Event, ...]:
        """The events of one kind, by start."""
        return tuple(event for event in self.events if event.kind == kind)
