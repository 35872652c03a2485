"""An audio track to one 16 kHz mono waveform on the clip's clock."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError

from .clip import SAMPLE_RATE, Samples
from .container import FAILURES, clock

JITTER = 0.05  # s; a larger difference between time stamp and sample count is a gap or an overlap
JUMP = 1.0  # s; a clock that goes back by more has restarted
GAP = 3600.0  # s; a longer gap is a false time stamp
PREROLL = 0.2  # s decoded before the clip's start, for codecs that depend on earlier frames
BLOCK = 4096  # samples that the resampler returns at a time
SILENCE = 1 / 32768  # peak of a digitally silent track: less than one 16-bit step

WEIGHTS = {  # of each channel in the mono mix (ITU-R BS.775, as FFmpeg); all others 0.5
    "FC": 1.0, "FL": 0.5**0.5, "FR": 0.5**0.5, "FLC": 0.5**0.5, "FRC": 0.5**0.5, "DL": 0.5**0.5, "DR": 0.5**0.5,
    "LFE": 0.0, "LFE2": 0.0,
}  # fmt: skip
UNNAMED = {6: ("FL", "FR", "FC", "LFE", "BL", "BR"), 8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")}  # WAVE order


def mix(samples: Samples, names: tuple[str, ...]) -> Samples:
    """Down-mix (S, channels) to (S,): a weighted mean, so stereo is (L + R) / 2 and nothing clips."""
    if len(names) == 1:
        return samples[:, 0]
    if not set(names) & set(WEIGHTS):
        names = UNNAMED.get(len(names), names)
    weights = np.array([WEIGHTS.get(name, 0.5) for name in names], np.float32)
    return samples @ (weights / (weights.sum() or 1.0))


class Waveform:
    """Samples at their positions: gaps are filled with zeros, overlaps and samples outside the clip are cut."""

    def __init__(self, limit: float) -> None:
        self._limit = math.inf if math.isinf(limit) else round(limit * SAMPLE_RATE)
        self._parts: list[Samples] = []
        self.filled = 0  # samples
        self.ready = 0  # bytes that `drain` would return
        self.peak = 0.0

    def put(self, position: int, samples: Samples) -> None:
        """Write `samples` (S,) from sample `position` on."""
        samples = samples[max(self.filled - position, 0) :]
        position = max(position, self.filled)
        samples = samples[: max(int(min(self._limit - position, len(samples))), 0)]
        if not len(samples):
            return
        if position > self.filled:
            self._parts.append(np.zeros(position - self.filled, np.float32))
        self._parts.append(samples)
        self.ready += samples.itemsize * (position + len(samples) - self.filled)
        self.filled = position + len(samples)
        self.peak = max(self.peak, float(samples.max()), -float(samples.min()))

    def drain(self) -> Samples:
        """The samples (S,) written since the last call."""
        parts, self._parts, self.ready = self._parts, [], 0
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class AudioReader:
    """Decodes an audio stream's packets to the clip's waveform.

    `origin`: the stream's time (s) that is the clip's 0; `limit`: the end of the clip (s of the clip), or infinity.
    """

    def __init__(self, stream: av.AudioStream, origin: Fraction, limit: float) -> None:
        self._limit = limit
        self._context = stream.codec_context
        self._clock, self._unit = clock(stream.time_base, origin), float(stream.time_base or 1)
        # FFmpeg flags a short last packet of a WAV as corrupt; `cut_wav_end` reports that with its length.
        pcm = self._context.name.startswith("pcm_")
        self._flagged = not (pcm and stream.container.format.name == "wav")
        self._waveform = Waveform(limit)
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None  # format, layout and rate of the resampler's input
        self._position = 0  # sample where the resampler's next output starts
        self._begun = 0.0  # start of the present run without gaps
        self._count = 0  # its samples so far, at the source's rate
        self._shift = 0.0
        self._failed = 0
        self.done = False
        self.first: float | None = None  # start of the first packet
        self.end = -math.inf  # end of the audio
        self.packets = 0
        self.damaged = 0
        self.missing = 0.0  # s of gaps, filled with silence
        self.reason = ""

    def feed(self, packet: av.Packet[av.AudioStream]) -> None:
        """Decode the next packet."""
        if self.done:
            return
        self.packets += 1
        self.damaged += packet.is_corrupt and self._flagged
        if packet.pts is not None:
            time = self._clock(packet.pts) + self._shift
            self.first = time if self.first is None else self.first
            length = (packet.duration or 0) * self._unit
            if length and time + length < -PREROLL:
                self.end = time + length
                return
        self._decode(packet)

    @property
    def ready(self) -> int:
        """Bytes that `drain` would return."""
        return self._waveform.ready

    @property
    def has_samples(self) -> bool:
        """Whether the clip has samples."""
        return self._waveform.filled > 0

    @property
    def silent(self) -> bool:
        """Whether all samples are digitally silent."""
        return self._waveform.peak <= SILENCE

    def drain(self) -> Samples:
        """The waveform (S,) float32 since the last call."""
        return self._waveform.drain()

    def finish(self) -> Samples:
        """No more packets: the rest of the waveform (S,) float32."""
        if not self.done:
            self._decode(None)
        self._flush()
        self.done = True
        self.end = min(self.end, self._limit)
        return self._waveform.drain()

    @property
    def _expected(self) -> float:
        """The time at which the next frame should begin."""
        return self._begun + (self._count / self._kind[2] if self._kind else 0.0)

    def _decode(self, packet: av.Packet[av.AudioStream] | None) -> None:
        try:
            frames = self._context.decode(packet)
        except FFmpegError as error:
            if packet is not None:
                self.damaged += not packet.is_corrupt  # corrupt packets are already counted
                self._failed += 1
                self.reason = (error.strerror or str(error)).lower()
                self.done = self._failed >= FAILURES
            return
        for frame in frames:
            self._failed = 0
            if frame.samples and frame.sample_rate:
                self._add(self._time(frame), frame)

    def _time(self, frame: av.AudioFrame) -> float:
        """The time at which the frame begins; an implausible time stamp is replaced by the expected one."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None:
            return self._expected
        time = self._clock(stamp) + self._shift
        back = self._resampler is not None and time < self._expected - JUMP
        if back or time > max(self._expected, 0.0) + GAP:
            self._shift += self._expected - time
            time = self._expected
        return time

    def _add(self, time: float, frame: av.AudioFrame) -> None:
        """Append `frame`, which begins at `time` (s of the clip)."""
        if time >= self._limit:
            self.done = True
            return
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or kind != self._kind or abs(time - self._expected) > JITTER:
            self._begin(time, kind)
        assert self._resampler is not None
        frame.pts = None
        self._put(self._resampler.resample(frame))
        self._count += frame.samples
        self.end = max(self.end, self._expected)

    def _begin(self, time: float, kind: tuple[str, str, int]) -> None:
        """Start a new run of samples without gaps at `time`."""
        if self._kind is not None:
            self.missing += max(min(time, self._limit) - max(self._expected, 0.0), 0.0)
        self._flush()
        self._kind = kind
        self._resampler = av.AudioResampler(format="flt", layout=kind[1], rate=SAMPLE_RATE, frame_size=BLOCK)
        self._position = round(time * SAMPLE_RATE)
        self._begun, self._count = time, 0

    def _flush(self) -> None:
        if self._resampler is not None:
            self._put(self._resampler.resample(None))
        self._resampler = None

    def _put(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            if frame is None:  # a resampler that changes nothing returns the flush
                continue
            names = tuple(channel.name for channel in frame.layout.channels)
            mono = mix(frame.to_ndarray().reshape(-1, len(names)).astype(np.float32, copy=False), names)
            if not np.isfinite(mono.sum()):
                mono = np.nan_to_num(mono, posinf=0.0, neginf=0.0)
            self._waveform.put(self._position, mono)
            self._position += len(mono)
