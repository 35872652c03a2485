"""The fixed parts of one run: its clip, models, sizes and budget; and the facts about the machine."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.gpu.models import Models, attention_of
from bench.gpu.rows import Budget
from echoingpixels.backbones.kernels import choose_kernels
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.checkpoints.loading import device_dtype
from echoingpixels.media.clip import Clip, whole
from echoingpixels.media.sandbox.worker import Worker
from echoingpixels.model import EchoingPixels
from echoingpixels.options import LoadOptions, MediaOptions
from echoingpixels.planning.doctor import driver
from echoingpixels.planning.meta_model import outline

PACKAGES = ("transformers", "bitsandbytes", "av", "numpy")


@dataclass(frozen=True)
class Setup:
    """One run. `batch`: rows of the larger batch. `tokens`: of each answer. `repeat`: rounds that count."""

    models: Models
    worker: Worker
    clip: Path
    seconds: float
    keeps: tuple[float, ...]
    batch: int
    tokens: int
    repeat: int
    budget: Budget

    @property
    def device(self) -> torch.device:
        """The device of all models."""
        return self.models.device

    @property
    def half(self) -> str:
        """The dtype that models are loaded in on a GPU."""
        return str(device_dtype(self.device)).removeprefix("torch.")

    @property
    def read(self) -> MediaOptions:
        """How the clip is read."""
        return MediaOptions(end=self.seconds)

    def decoded(self, model: EchoingPixels) -> Clip:
        """The clip in memory."""
        return whole(self.worker.stream(self.clip, self.read, frame_size=model.frame_size))


def facts(setup: Setup) -> dict[str, Any]:
    """The machine, the packages, the model and the clip. No weights are made."""
    models, device = setup.models, setup.device
    options = LoadOptions(device=str(device), dtype=setup.half)
    on = outline(models.name, options).model.backbone
    assert isinstance(on, QwenOmni)
    choose_kernels(on.thinker, device, on.dtype)
    return {
        **_device(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in PACKAGES},
        "model": models.name,
        "weights": models.weights,
        "dtype": setup.half,
        "attention": attention_of(on.thinker),
        "clip": setup.clip.name,
        "clip_s": setup.seconds,
        "answer_tokens": setup.tokens,
        "rounds": setup.repeat,
    }


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"}
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "compute_capability": f"{major}.{minor}",
        "memory_bytes": torch.cuda.mem_get_info(device)[1],
        "driver": driver(),
        "cuda": torch.version.cuda or torch.version.hip,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
