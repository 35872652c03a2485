"""A model on disk, for tests of loading and of the command line: the bundled tiny one, or a random one in its place."""

from __future__ import annotations

from pathlib import Path

import torch

from echoingpixels.loading import KNOWN, save
from echoingpixels.model import EchoingPixels
from echoingpixels.sieve import Sieve, SieveOptions
from echoingpixels.train.build import build_backbone
from echoingpixels.train.recipe import Sizes


def place(folder: Path) -> str:
    """What to load: `tiny` where it is bundled, else FOLDER with a random model in it."""
    if (Path(KNOWN["tiny"]) / "config.json").is_file():
        return "tiny"
    torch.manual_seed(0)
    sizes = Sizes()
    backbone = build_backbone(sizes, "tiny")
    save(EchoingPixels(backbone, Sieve(backbone, SieveOptions(2, "fused", sizes.sections))), folder)
    return str(folder)
