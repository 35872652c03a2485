"""Reading the sound: one mono waveform on the picture's clock, whatever the file holds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from echoingpixels.errors import OptionError
from echoingpixels.media import read_clip
from echoingpixels.media.audio import Waveform, mix
from tests.support.clips import RATE, Film, Track, add_cover, beep, beeps, number, quadrants, write


def beep_times(audio: np.ndarray | None) -> list[float]:
    assert audio is not None and audio.dtype == np.float32 and audio.ndim == 1
    return beeps(audio)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a", ".mka", ".aiff"])
def test_sound_files_are_clips_without_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".m4a", ".mka"):
        write(path, Film(codec=None, tracks=(Track(beep(4, 2.5)),)), "mp4" if suffix == ".m4a" else "matroska")
    else:
        soundfile.write(path, beep(4, 2.5, channels=2).T, RATE)
    clip = read_clip(path)
    assert clip.frames.shape[0] == 0 and clip.times.shape == (0,) and clip.source.kind == "audio"
    assert beep_times(clip.audio) == pytest.approx([2.5], abs=0.005)
    assert clip.duration == pytest.approx(4, abs=0.02) and len(clip.audio) == pytest.approx(64_000, abs=400)
    part = read_clip(path, start=1.75, end=3.0)
    assert beep_times(part.audio) == pytest.approx([0.75], abs=0.005) and len(part.audio) == 20_000


def test_a_tone_keeps_its_pitch_and_its_level(tmp_path: Path) -> None:
    t = np.arange(44_100 * 2) / 44_100
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), 44_100, subtype="FLOAT")
    audio = read_clip(tmp_path / "a.wav").audio
    assert audio is not None and len(audio) == 32_000
    assert np.abs(audio[100:-100] - 0.5 * np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)[100:-100]).max() < 1e-3


def test_what_16_khz_cannot_hold_is_filtered_and_not_folded_back(tmp_path: Path) -> None:
    t = np.arange(RATE) / RATE
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 11_000 * t), RATE, subtype="FLOAT")
    audio = read_clip(tmp_path / "a.wav").audio
    assert audio is None or np.abs(audio[200:-200]).max() < 0.01


def test_sound_that_starts_late_is_led_by_silence(tmp_path: Path) -> None:
    film = Film(tracks=(Track(beep(2, 0.5), start=1.5),))
    for suffix in (".mp4", ".mkv", ".ts"):
        clip = read_clip(write(tmp_path / f"a{suffix}", film))
        assert beep_times(clip.audio) == pytest.approx([2.0], abs=0.01)
        assert clip.audio is not None and np.abs(clip.audio[: int(1.4 * 16_000)]).max() < 1e-3
        assert clip.times[0] == 0 and number(clip.frames[0]) == 0


def test_a_gap_in_the_sound_is_silence_of_its_length(tmp_path: Path) -> None:
    track = Track(beep(1, 0.5), codec="pcm_s16le", then=((2.5, beep(1, 0.25)),))
    clip = read_clip(write(tmp_path / "a.mkv", Film(tracks=(track,))))
    assert beep_times(clip.audio) == pytest.approx([0.5, 2.75], abs=0.005)
    assert any("1.5 s" in warning for warning in clip.source.warnings)


def test_sound_longer_than_the_picture_is_kept(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(seconds=2, tracks=(Track(beep(5, 4.0)),))))
    assert len(clip.frames) == 4 and beep_times(clip.audio) == pytest.approx([4.0], abs=0.01)
    assert clip.duration == pytest.approx(5, abs=0.05) and clip.source.warnings == ()


def test_past_the_picture_s_end_the_sound_goes_on_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=2, tracks=(Track(beep(5, 4.0)),)))
    clip = read_clip(path, start=3)
    assert len(clip.frames) == 0 and beep_times(clip.audio) == pytest.approx([1.0], abs=0.01)
    assert any("picture" in warning for warning in clip.source.warnings)


def test_the_default_track_is_read_and_others_on_request(tmp_path: Path) -> None:
    tracks = (Track(beep(3, 0.5), default=False), Track(beep(3, 1.5), default=True), Track(beep(3, 2.5), default=False))
    path = write(tmp_path / "a.mkv", Film(seconds=3, tracks=tracks))
    clip = read_clip(path)
    assert beep_times(clip.audio) == pytest.approx([1.5], abs=0.01)
    assert clip.source.audio is not None and (clip.source.audio.index, clip.source.audio.tracks) == (1, 3)
    for track, second in enumerate((0.5, 1.5, 2.5)):
        assert beep_times(read_clip(path, audio_track=track).audio) == pytest.approx([second], abs=0.01)
    with pytest.raises(OptionError, match=r"no audio track 3.*0: aac.*1: aac.*2: aac"):
        read_clip(path, audio_track=3)


def test_without_a_sound_track_the_clip_says_so(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(seconds=1)))
    assert clip.audio is None and clip.source.audio is None and not clip.source.silent
    assert "no audio track" in clip.source.notes[0]


def test_a_digitally_silent_track_is_left_out_with_a_note(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", Film(seconds=2, tracks=(Track(np.zeros((1, 2 * RATE), np.float32)),))))
    assert clip.audio is None and clip.source.silent and clip.source.audio is not None
    assert "silent" in clip.source.notes[0]
    quiet = 1e-3 * np.sin(np.arange(2 * RATE) / 10)[None].astype(np.float32)
    assert read_clip(write(tmp_path / "b.mkv", Film(seconds=2, tracks=(Track(quiet),)))).audio is not None


@pytest.mark.parametrize("channel", [0, 1, 2, 4, 5])
def test_each_channel_of_5_1_is_mixed_in(tmp_path: Path, channel: int) -> None:
    track = Track(beep(2, 0.5, channels=6, only=channel), codec="flac", layout="5.1")
    clip = read_clip(write(tmp_path / "a.mkv", Film(seconds=2, tracks=(track,))))
    assert beep_times(clip.audio) == pytest.approx([0.5], abs=0.005)
    weight = {2: 1.0, 4: 0.5, 5: 0.5}.get(channel, 0.5**0.5) / (2 + 2**0.5)
    assert clip.audio is not None and np.abs(clip.audio).max() == pytest.approx(0.5 * weight, rel=0.05)
    assert clip.source.audio is not None and (clip.source.audio.channels, clip.source.audio.layout) == (6, "5.1")


def test_all_of_7_1_is_mixed_in_from_a_planar_codec(tmp_path: Path) -> None:
    track = Track(beep(2, 0.5, channels=8, only=7), layout="7.1")
    assert beep_times(read_clip(write(tmp_path / "a.mp4", Film(seconds=2, tracks=(track,)))).audio) == pytest.approx(
        [0.5], abs=0.01
    )


def test_stereo_is_mixed_to_its_mean_and_never_clips() -> None:
    samples = np.array([[1, 1], [1, -1], [0.5, 0]], np.float32)
    assert mix(samples, ("FL", "FR")).tolist() == [1, 0, 0.25]
    assert mix(np.ones((1, 6), np.float32), ("FL", "FR", "FC", "LFE", "BL", "BR")) == pytest.approx(1)
    assert mix(np.ones((1, 6), np.float32), ("NONE",) * 6) == pytest.approx(1)


def test_pieces_of_sound_are_put_in_their_places() -> None:
    wave = Waveform(limit=10 / 16_000)
    wave.put(-2, np.array([9, 9, 1], np.float32))  # two samples before the clip
    wave.put(3, np.array([2, 3], np.float32))  # after a gap
    wave.put(4, np.array([8, 4], np.float32))  # overlapping
    wave.put(8, np.array([5, 6, 7], np.float32))  # past the end
    assert wave.drain().tolist() == [1, 0, 0, 2, 3, 4, 0, 0, 5, 6]


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_cover_art_is_no_video(tmp_path: Path, suffix: str) -> None:
    plain = tmp_path / f"plain{suffix}"
    codec = "libmp3lame" if suffix == ".mp3" else "aac"
    write(plain, Film(codec=None, tracks=(Track(beep(3, 1.0), codec=codec),)), "mp4" if suffix == ".m4a" else None)
    jpeg = io.BytesIO()
    Image.fromarray(quadrants()).save(jpeg, "JPEG")
    clip = read_clip(add_cover(plain, tmp_path / f"a{suffix}", jpeg.getvalue()))
    assert clip.source.kind == "audio" and clip.frames.shape[0] == 0
    assert beep_times(clip.audio) == pytest.approx([1.0], abs=0.01)


def test_sound_without_picture_cannot_do_without_its_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", beep(1, 0.5).T, RATE)
    with pytest.raises(OptionError, match="only sound"):
        read_clip(tmp_path / "a.wav", audio=False)
    with pytest.raises(OptionError, match=r"past the end.*1\.00 s"):
        read_clip(tmp_path / "a.wav", start=3)


def test_the_real_5_1_clip_is_as_long_as_its_picture(real_clip: Callable[[str], Path]) -> None:
    clip = read_clip(real_clip("bigbuckbunny.mp4"))
    assert clip.source.audio is not None and clip.source.audio.layout == "5.1"
    assert clip.audio is not None and len(clip.audio) / 16_000 == pytest.approx(5.31, abs=0.05)
    assert 0.01 < np.abs(clip.audio).max() <= 1


def test_real_clips_say_when_they_are_silent(real_clip: Callable[[str], Path]) -> None:
    bikes, world, speech = (read_clip(real_clip(name)) for name in ("bikes.mp4", "world.mp4", "jwpIntro.mp4"))
    assert bikes.audio is None and bikes.source.audio is None and not bikes.source.silent
    assert world.audio is None and world.source.audio is not None and world.source.silent
    assert speech.audio is not None and speech.source.notes == ()
