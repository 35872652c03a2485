"""The models known by name: whether they are on this machine, their size, and what an answer from them takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .clip import SAMPLE_RATE
from .forecast import Case, memory_of
from .frames import FACTOR, MERGE, STEP
from .headroom import free_memory
from .hub import on_hub
from .inputs import Media, audio_tokens
from .loading import KNOWN
from .mel import MEL_BINS, mel_frames
from .model import EchoingPixels
from .options import MAX_PIXELS, QUANTS, AskOptions, LoadOptions, MediaOptions, Quant
from .outline import Outline, outline
from .positions import Span

SECONDS, KEEP = 60, 0.1  # of the clip that needs are told for, with sound, at the usual frame rate and size
BFLOAT16 = 2  # bytes
QUESTION = "What happens, and when?"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class Need:
    """Bytes of the decoder under one quantization, and of the peak while a 60 s clip is answered about.

    `fits`: whether there is as much on this machine; None where that cannot be known.
    """

    quant: Quant
    weights: int
    peak: int
    fits: bool | None


@dataclass(frozen=True)
class Entry:
    """A model. `place`: its hub id or folder; `folder`: where all of it is on this machine, None where it is not.

    `download`: bytes on disk, or where it is not here, the thinker's alone, in bfloat16: the least that is fetched.
    `sieves`: names for `--sieve`, `own` for the one that is taken unasked.
    """

    name: str
    place: str
    folder: Path | None
    download: int
    sieves: tuple[str, ...]
    needs: tuple[Need, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "folder": None if self.folder is None else str(self.folder)}


def known_models(device: str = "auto") -> tuple[Entry, ...]:
    """Every known model. Nothing is downloaded and no weights are read."""
    return tuple(_entry(name, place, device) for name, place in KNOWN.items())


def _entry(name: str, place: str, device: str) -> Entry:
    drawn = outline(name, LoadOptions(device=device))
    folder = local_folder(place)
    there = [file for file in _weight_files(folder) if file.is_file()] if folder else []
    download = sum(file.stat().st_size for file in there) or sum(
        2 * weight.numel() for weight in drawn.model.backbone.parameters()
    )
    found = sorted(path.name for path in folder.glob("sieve*") if path.is_dir()) if folder else []
    sieves = tuple("own" if one == "sieve" else one.removeprefix("sieve-") for one in found)
    return Entry(name, place, folder, download, sieves, tuple(_needs(drawn)))


def _needs(drawn: Outline) -> Iterator[Need]:
    for quant in QUANTS:
        yield need_of(drawn, quant)


def need_of(drawn: Outline, quant: Quant) -> Need:
    """Memory for a 60 s clip under one quantization."""
    model = EchoingPixels(drawn.model.backbone, drawn.model.sieve, quant)
    case = nominal_case(replace(drawn, model=model), AskOptions(keep=KEEP).settled(drawn.own_sieve))
    memory = memory_of(case, free_memory(drawn.device))
    return Need(quant, memory.weights, memory.peak, memory.fits)


def nominal_case(drawn: Outline, options: AskOptions) -> Case:
    """A question about a clip of SECONDS with sound."""
    return Case(drawn, _media(), QUESTION, options, _CLIP)


def fitting(candidates: Iterable[tuple[str, Quant]], options: LoadOptions) -> Iterator[tuple[str, Need]]:
    """Those of (model, quantization) that fit the device's free memory by the plan, in their order."""
    drawn: dict[str, Outline] = {}
    for name, quant in candidates:
        if name not in drawn:
            drawn[name] = outline(name, replace(options, quant="none"))
        need = need_of(drawn[name], quant)
        if need.fits:
            yield name, need


@cache
def _media() -> Media:
    """A clip of SECONDS, of which only sizes are known."""
    side, mel = int(MAX_PIXELS**0.5) // FACTOR, mel_frames(SECONDS * SAMPLE_RATE)
    steps = int(SECONDS * MediaOptions.fps) // STEP
    times = tuple(STEP * step / MediaOptions.fps for step in range(steps))
    grid = (steps, MERGE * side, MERGE * side)
    return Media(Span(times, side, side, audio_tokens(mel)), None, grid, torch.empty(MEL_BINS, mel, device="meta"))


_CLIP = int(SECONDS * (MediaOptions.fps * MAX_PIXELS * 3 + SAMPLE_RATE * 4))  # bytes


def local_folder(place: str) -> Path | None:
    """The folder of a model if all its weights are on this machine, without asking the network."""
    if on_hub(place):
        from huggingface_hub import snapshot_download

        with suppress(OSError, ValueError):
            folder = Path(snapshot_download(place, local_files_only=True))
            return folder if _whole(folder) else None
        return None
    return Path(place) if _whole(Path(place)) else None


def _whole(folder: Path) -> bool:
    files = _weight_files(folder)
    return bool(files) and all(file.is_file() for file in files)


def _weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights, as its index names them."""
    with suppress(OSError, ValueError, KeyError, AttributeError):
        names = json.loads((folder / INDEX).read_text())["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    return [folder / SINGLE]
