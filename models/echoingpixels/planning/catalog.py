"""The models known by name: whether they are on this machine, their size, and the memory of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.hub import PUBLISHED, local_folder, weight_files
from ..checkpoints.loading import KNOWN
from ..inputs.prepare import Extent
from ..media.clip import SAMPLE_RATE, Ending, Source
from ..model import EchoingPixels
from ..options import QUANTS, AskOptions, LoadOptions, MediaOptions, Quant
from .meta_model import Outline, outline
from .plan import Plan, plan

SECONDS, SIZE, KEEP = 60, (720, 1280), 0.1  # of the clip that needs are planned for, with audio, at the default rate
QUESTION = "What happens, and when?"


@dataclass(frozen=True)
class Need:
    """Bytes of the weights under one quantization, and of the peak during an answer about a 60 s clip.

    `fits`: whether this machine has the memory; None if unknown.
    """

    quant: Quant
    weights: int
    peak: int
    fits: bool | None


@dataclass(frozen=True)
class Entry:
    """A model. `place`: its hub id or folder; `folder`: its complete copy on this machine, None without one.

    `download`: bytes of its weights on disk; for a model that is not on this machine, the approximate download.
    `sieves`: names for `--sieve`, `own` for the one that is used by default.
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
    return tuple(entry_of(name, place, device) for name, place in KNOWN.items())


def entry_of(name: str, place: str, device: str) -> Entry:
    """One known model."""
    folder = local_folder(place)
    files = weight_files(folder) if folder else []
    size = sum(file.stat().st_size for file in files) or PUBLISHED.get(place, (0, ""))[0]
    found = sorted(path.name for path in folder.glob("sieve*") if path.is_dir()) if folder else []
    sieves = tuple("own" if one == "sieve" else one.removeprefix("sieve-") for one in found)
    return Entry(name, place, folder, size, sieves, needs_of(outline(name, LoadOptions(device=device))))


def needs_of(meta: Outline) -> tuple[Need, ...]:
    """Memory for a 60 s clip under each quantization."""
    return tuple(need_of(meta, quant) for quant in QUANTS)


def need_of(meta: Outline, quant: Quant) -> Need:
    """Memory for a 60 s clip under one quantization."""
    model = EchoingPixels(meta.model.backbone, meta.model.sieve, quant)
    memory = plan_like(replace(meta, model=model), AskOptions(keep=KEEP)).memory
    return Need(quant, memory.weights, memory.peak, memory.fits)


def fitting(candidates: Iterable[tuple[str, Quant]], options: LoadOptions) -> Iterator[tuple[str, Need]]:
    """Those of (model, quantization) that fit the device's free memory by the plan, in their order."""
    metas: dict[str, Outline] = {}
    for name, quant in candidates:
        if name not in metas:
            metas[name] = outline(name, replace(options, quant="none"))
        need = need_of(metas[name], quant)
        if need.fits:
            yield name, need


def plan_like(meta: Outline, options: AskOptions) -> Plan:
    """The plan for a question about a 60 s clip."""
    return plan(meta, clip_like(meta.model), QUESTION, options)


def clip_like(model: EchoingPixels, seconds: int = SECONDS, size: tuple[int, int] = SIZE) -> Extent:
    """A video of the given duration with audio, as it is read for the model from a file with frames of that size."""
    times = tuple(frame / MediaOptions.fps for frame in range(int(seconds * MediaOptions.fps)))
    ending = Ending(seconds, Source("a clip", "video", "none", seconds))
    return Extent(model.frame_size(*size, len(times)), times, seconds * SAMPLE_RATE, ending, len(times))
