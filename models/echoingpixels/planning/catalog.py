"""The models known by name: whether they are on this machine, their size, and what an answer from them takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.hub import on_hub
from ..checkpoints.loading import KNOWN
from ..inputs.prepare import Extent
from ..media.clip import SAMPLE_RATE, Ending, Source
from ..model import EchoingPixels
from ..options import QUANTS, AskOptions, LoadOptions, MediaOptions, Quant
from .meta_model import Outline, outline
from .plan import plan

SECONDS, SIZE, KEEP = 60, (720, 1280), 0.1  # of the clip that needs are told for, with sound, at the usual frame rate
QUESTION = "What happens, and when?"
# Bytes of all weights, rounded, for when the hub cannot be asked (all shards are fetched), and the licence.
ON_HUB = {
    "Qwen/Qwen2.5-Omni-3B": (12_000_000_000, "Qwen Research License (non-commercial)"),
    "Qwen/Qwen2.5-Omni-7B": (22_000_000_000, "Apache-2.0"),
}
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

    `download`: bytes of its weights on disk; for one that is not on this machine, about how much will be fetched.
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
    download = sum(file.stat().st_size for file in there) or ON_HUB.get(place, (0, ""))[0]
    found = sorted(path.name for path in folder.glob("sieve*") if path.is_dir()) if folder else []
    sieves = tuple("own" if one == "sieve" else one.removeprefix("sieve-") for one in found)
    return Entry(name, place, folder, download, sieves, tuple(_needs(drawn)))


def _needs(drawn: Outline) -> Iterator[Need]:
    for quant in QUANTS:
        yield need_of(drawn, quant)


def need_of(drawn: Outline, quant: Quant) -> Need:
    """Memory for a 60 s clip under one quantization."""
    model = EchoingPixels(drawn.model.backbone, drawn.model.sieve, quant)
    memory = plan(replace(drawn, model=model), clip_like(model), QUESTION, AskOptions(keep=KEEP)).memory
    return Need(quant, memory.weights, memory.peak, memory.fits)


def fitting(candidates: Iterable[tuple[str, Quant]], options: LoadOptions) -> Iterator[tuple[str, Need]]:
    """Those of (model, quantization) that fit the device's free memory by the plan, in their order."""
    drawn: dict[str, Outline] = {}
    for name, quant in candidates:
        if name not in drawn:
            drawn[name] = outline(name, replace(options, quant="none"))
        need = need_of(drawn[name], quant)
        if need.fits:
            yield name, need


def clip_like(model: EchoingPixels, seconds: int = SECONDS, size: tuple[int, int] = SIZE) -> Extent:
    """A video of so many seconds with sound, as the model would have it read from a file with frames of that size."""
    times = tuple(frame / MediaOptions.fps for frame in range(int(seconds * MediaOptions.fps)))
    ending = Ending(seconds, Source("a clip", "video", "none", seconds))
    return Extent(model.frame_size(*size, len(times)), times, seconds * SAMPLE_RATE, ending, len(times))


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
