"""What is broken, is not media, or is a still image: a clear word, or what could be read with a warning."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from echoingpixels.errors import EpError, MediaError, OptionError
from echoingpixels.media import read_clip
from tests.support.clips import RATE, Film, Track, beep, beeps, corners, number, numbered, quadrants, write

pytestmark = pytest.mark.timeout(60)  # nothing hangs
SOUND = (Track(beep(10, 1.5)),)


def refused(path: Path | str) -> MediaError:
    with pytest.raises(MediaError) as caught:
        read_clip(path)
    assert "\n" not in str(caught.value) and caught.value.hint and Path(path).name in caught.value.message
    return caught.value


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.mp4").message
    with pytest.raises(MediaError, match="download it first"):
        read_clip("https://example.org/a.mp4")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "folder" in refused(tmp_path).message


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert "0 bytes" in refused(tmp_path / "a.mp4").message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mp3", "a.wav", "a.png", "a.txt"])
def test_text_is_refused_under_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is not a film.\n" * 200)
    assert "looks like text" in refused(tmp_path / name).hint


def test_noise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(random.Random(0).randbytes(100_000))
    refused(tmp_path / "a.mp4")


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert "regular file" in refused(tmp_path / "a.mp4").message


@pytest.mark.parametrize("head", ["#EXTM3U\n#EXTINF:4,\n", "ffconcat version 1.0\nfile ", "<?xml version='1.0'?><MPD>"])
def test_playlists_that_name_other_files_are_refused(tmp_path: Path, head: str) -> None:
    write(tmp_path / "real.ts", Film(seconds=1))
    for name in ("a.m3u8", "a.mp4"):
        (tmp_path / name).write_text(f"{head}real.ts\n")
        assert "playlist" in refused(tmp_path / name).message


@pytest.mark.parametrize("name", ["a b#%02d é.mp4", "concat:a|b.mp4", "-i.mp4", "http:x.mp4"])
def test_any_file_name_is_just_a_name(tmp_path: Path, name: str) -> None:
    os.replace(write(tmp_path / "plain.mp4", Film(seconds=1)), tmp_path / name)
    assert len(read_clip(tmp_path / name).frames) == 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv", ".avi", ".wav", ".flac", ".mp3", ".aiff", ".au"])
def test_a_truncated_file_gives_what_is_left_and_says_how_much_was_lost(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".wav", ".flac", ".mp3", ".aiff", ".au"):
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(10 * RATE), RATE)
    else:
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        write(path, Film(seconds=10, tracks=SOUND, container_options=options))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * (8 if suffix == ".mp4" else 6) // 10])  # an MP4 begins with its index
    clip = read_clip(path)
    assert 2 < clip.duration < 9.5
    if clip.source.kind == "video":
        assert [number(frame) for frame in clip.frames] == [round(30 * time) for time in clip.times]
        assert beeps(clip.audio if clip.audio is not None else np.zeros(9)) == pytest.approx([1.5], abs=0.03)
    if suffix != ".avi":  # whose index, at its end, alone states its length
        text = " ".join(clip.source.warnings)
        assert f"stopped at {clip.duration:.1f} s of 10." in text or "of 10.0 s" in text


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW"])  # with and without a count of samples beside the size
def test_a_wav_that_is_cut_short_says_how_long_it_was(tmp_path: Path, subtype: str) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE)
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype=subtype)
    whole = (tmp_path / "a.wav").read_bytes()
    for size in range(len(whole) // 2, len(whole) // 2 + 4):
        (tmp_path / "a.wav").write_bytes(whole[:size])
        clip = read_clip(tmp_path / "a.wav")
        assert clip.audio is not None and len(clip.audio) == pytest.approx(80_000, abs=40)
        assert any("Decoding the sound stopped at 5.0 s of 10.0 s" in warning for warning in clip.source.warnings)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_from_a_live_recorder_states_no_length(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", beep(4, 1.5).T, RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    clip = read_clip(tmp_path / "a.wav")
    assert clip.audio is not None and beeps(clip.audio) == pytest.approx([1.5], abs=0.01)
    assert clip.duration == 4 and clip.source.warnings == ()


def test_an_mp4_without_its_index_is_reported_as_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=10, tracks=SOUND))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert "cut short" in refused(path).hint


def test_a_corrupted_middle_costs_only_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=10, tracks=SOUND, container_options={"movflags": "faststart"}))
    data = bytearray(path.read_bytes())
    middle, length = len(data) * 6 // 10, len(data) // 20
    data[middle : middle + length] = random.Random(1).randbytes(length)
    path.write_bytes(data)
    clip = read_clip(path)
    right = [number(frame) == round(30 * time) for time, frame in zip(clip.times, clip.frames, strict=True)]
    assert right[:8] == [True] * 8 and right[-4:] == [True] * 4 and clip.times[-1] == 9.5
    assert clip.audio is not None and beeps(clip.audio)[0] == pytest.approx(1.5, abs=0.01)
    assert any("Damaged packets of picture skipped" in warning for warning in clip.source.warnings)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".flac", ".mp3"])
def test_random_damage_never_hangs_and_never_shows_a_traceback(tmp_path: Path, suffix: str) -> None:
    path, rng = tmp_path / f"a{suffix}", random.Random(suffix)
    if suffix in (".flac", ".mp3"):
        write(path, Film(codec=None, tracks=(Track(beep(4, 1.5), codec={".mp3": "libmp3lame"}.get(suffix, "flac")),)))
    else:
        write(path, Film(seconds=4, tracks=(Track(beep(4, 1.5)),)))
    whole = path.read_bytes()
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 5, 50, 300])):
            at = rng.randrange(len(data))
            data[at : at + 4] = rng.randbytes(4)
        path.write_bytes(data)
        try:
            clip = read_clip(path, start=rng.choice([None, 1.2]), max_frames=rng.choice([3, 120]))
        except EpError as error:
            assert "\n" not in str(error)
        else:
            assert len(clip.frames) == len(clip.times) and (np.diff(clip.times) > 0).all()
            assert clip.audio is None or np.isfinite(clip.audio).all()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif"])
def test_a_still_image_is_one_frame_at_time_zero(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(quadrants()).save(path, kind.upper())
    clip = read_clip(path, frame_size=lambda height, width, *_: (height // 2, width // 2))
    assert clip.frames.shape == (1, 32, 48, 3) and clip.times.tolist() == [0] and clip.audio is None
    assert corners(clip.frames[0]) == "rgbw" and clip.source.kind == "image" and clip.duration == 0
    with pytest.raises(OptionError, match="still image"):
        read_clip(path, start=1)


@pytest.mark.parametrize(("orientation", "upright"), [(1, "rgbw"), (2, "grwb"), (3, "wbgr"), (6, "brwg"), (8, "gwrb")])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, upright: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quadrants()).save(tmp_path / "a.jpg", exif=exif)
    clip = read_clip(tmp_path / "a.jpg")
    assert corners(clip.frames[0]) == upright
    assert clip.frames.shape[1:3] == ((96, 64) if orientation > 4 else (64, 96))


def test_images_in_other_modes_are_shown_as_they_look(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (96, 64), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (read_clip(tmp_path / "clear.png").frames == 255).all()
    Image.fromarray(np.full((64, 96), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (read_clip(tmp_path / "deep.png").frames == 0x80).all()
    Image.fromarray(quadrants()).convert("P").save(tmp_path / "palette.png")
    assert corners(read_clip(tmp_path / "palette.png").frames[0]) == "rgbw"


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_an_animation_is_a_video(tmp_path: Path, kind: str) -> None:
    first, *rest = [Image.fromarray(numbered(i)) for i in range(4)]
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=rest, duration=500)
    clip = read_clip(tmp_path / f"a.{kind}")
    assert clip.source.kind == "video" and clip.times.tolist() == [0, 0.5, 1.0, 1.5]
    assert [number(frame) for frame in clip.frames] == [0, 1, 2, 3]


def test_half_an_image_is_refused(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)).save(image, "PNG")
    (tmp_path / "a.png").write_bytes(image.getvalue()[:9000])
    assert "cut short" in refused(tmp_path / "a.png").hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0},
        {"fps": float("nan")},
        {"max_frames": 0},
        {"start": -1},
        {"start": 3, "end": 2},
        {"audio_track": -1},
        {"fsp": 2},
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=1))
    with pytest.raises(OptionError) as caught:
        read_clip(path, **wrong)
    assert caught.value.hint


def test_a_start_past_the_end_names_the_real_duration(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Film(seconds=3))
    with pytest.raises(OptionError, match=r"3\.00 s"):
        read_clip(path, start=5)
