"""Which weights a name stands for, told without loading them. Knows nothing about what is asked of them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..inputs.patches import Resolution
from ..options import LoadOptions, Reuse, reuse_name
from .fingerprint import files_mark, folder_mark
from .hub import unloadable
from .loading import device_of, dtype_of, reuse_of, place_of, read_config, resolution_of
from .sieve_io import sieve_folder
from .tensors import files_of

ENCODERS = re.compile(r"(?:thinker\.)?(?:model\.)?(?:visual|audio_tower)\..+")  # weights, as published or saved


@dataclass(frozen=True)
class Weights:
    """A model as it will run.

    `model`: mark of its files, or its commit on the hub; `sieve`: mark of its sieve's files, None without one;
    `encoders`: all that the encoders' features depend on beside the clip, which excludes quantization, tokenizer,
    decoder and sieve; `resolution`: of its frames; `reuse`: the threshold for unchanged windows.
    """

    model: str
    sieve: str | None
    encoders: str
    resolution: Resolution
    reuse: Reuse


def weights_of(name: str, options: LoadOptions) -> Weights:
    """The weights that `load(name, …)` would read. No weights are read for it. ModelError as from there."""
    import torch
    import transformers

    from .. import __version__

    place = place_of(name)
    config = read_config(name, place)
    try:
        model, encoders = _marks(place, config)
        folder = sieve_folder(place, options)
        sieve = folder_mark(folder) if folder is not None and folder.is_dir() else None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise unloadable(name, place, error) from error
    device, resolution = device_of(options.device), resolution_of(config, options)
    reuse = reuse_of(config, options)
    dtype = dtype_of(config, device, options.dtype)
    what = [encoders, str(dtype), device.type, str(resolution), reuse_name(reuse)]
    mark = json.dumps([*what, __version__, torch.__version__, transformers.__version__])
    return Weights(model, sieve, mark, resolution, reuse)


def _marks(place: str, config: Any) -> tuple[str, str]:
    """Of all files of a model, and of the encoders' weights and sizes alone; of one from the hub, twice its commit."""
    if not Path(place).is_dir():
        commit = _commit(place)
        return commit, commit
    sizes = [part.to_dict() for part in (config.vision_config, config.audio_config)]
    return folder_mark(Path(place)), json.dumps([files_mark(files_of(place, ENCODERS)), sizes], default=str)


def _commit(repository: str) -> str:
    """The commit of a model on the hub, the one on this machine if it is here: what `load` takes."""
    from huggingface_hub import hf_hub_download

    with suppress(OSError):
        return Path(hf_hub_download(repository, "config.json", local_files_only=True)).parent.name
    return Path(hf_hub_download(repository, "config.json")).parent.name
