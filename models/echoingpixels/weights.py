"""Which weights a name stands for, told without loading them. Knows nothing about what is asked of them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .fingerprint import folder_mark
from .frames import Resolution
from .loading import device_of, dtype_of, encode_of, place_of, read_config, resolution_of
from .options import LoadOptions
from .sievefolder import sieve_folder


@dataclass(frozen=True)
class Weights:
    """A model as it will run.

    `model`: mark of its files, or its commit on the hub; `sieve`: mark of its sieve's files, None without one;
    `towers`: all that the towers' features depend on beside the clip; `resolution`: of its frames; `encode`: how
    much the towers encode.
    """

    model: str
    sieve: str | None
    towers: str
    resolution: Resolution
    encode: str


def weights_of(name: str, options: LoadOptions) -> Weights:
    """The weights that `load(name, …)` would read. ModelError as from there."""
    import torch
    import transformers

    from . import __version__

    place = place_of(name)
    config = read_config(name, place)
    model = folder_mark(Path(place)) if Path(place).is_dir() else _commit(place)
    folder = sieve_folder(place, options)
    sieve = folder_mark(folder) if folder is not None and folder.is_dir() else None
    device, resolution = device_of(options.device), resolution_of(config, options)
    encode = str(encode_of(config, options))
    what = [
        model,
        options.quant,
        str(dtype_of(config, device)),
        device.type,
        str(resolution),
        encode,
    ]
    towers = json.dumps([*what, __version__, torch.__version__, transformers.__version__])
    return Weights(model, sieve, towers, resolution, encode)


def _commit(repository: str) -> str:
    """The commit of a model on the hub, the one on this machine if it is here: what `load` takes."""
    from huggingface_hub import hf_hub_download

    with suppress(OSError):
        return Path(hf_hub_download(repository, "config.json", local_files_only=True)).parent.name
    return Path(hf_hub_download(repository, "config.json")).parent.name
