"""From a model's name to its parts: backbone, sieve, dtype, device, quantization; and facts about them before loading.

A hub id, a local folder and the bundled tiny model take the same path.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..backbones.qwen_omni import QwenOmni
from ..errors import ModelError, is_out_of_memory
from ..inputs.patches import Resolution
from ..options import AUTO, NO_SIEVE, LoadOptions, Reuse, reuse_name
from ..options.encoder_keep import EncoderKeep
from ..reducers.cs2 import Sieve, SieveOptions, no_sieve
from .encoding import encoder_keep_of, resolution_of, reuse_of
from .fingerprint import files_mark, folder_mark
from .hub import (
    HUB_ID,
    UNREADABLE,
    ModelChoice,
    check_contents,
    fetch,
    files_of,
    missing,
    own_code,
    read_tensors,
    snapshot,
    unloadable,
)
from .sieve_io import load_sieve, sieve_folder, sieve_inside

ASSETS = Path(__file__).parents[1] / "assets"
KNOWN = {
    "tiny": str(ASSETS / "tiny"),
    "qwen2.5-omni-3b": "Qwen/Qwen2.5-Omni-3B",
    "qwen2.5-omni-7b": "Qwen/Qwen2.5-Omni-7B",
}
SMALLEST = "tiny"
LARGEST_FIRST = ("qwen2.5-omni-7b", "qwen2.5-omni-3b")
SMALL = 100_000_000  # parameters below which float32 is the better choice on a CPU
ENCODERS = re.compile(r"(?:thinker\.)?(?:model\.)?(?:visual|audio_tower)\..+")  # weights, as published or saved


def load_parts(name: str, chosen: LoadOptions, device: torch.device) -> tuple[QwenOmni, Sieve | None]:
    """A model's backbone, and its sieve if it has one. `chosen`: with a concrete quantization. Raises as `load`."""
    place = place_of(name)
    config, folder = read_config(name, place), sieve_folder(place, chosen)
    if is_quantized(config) and chosen.quant != "none":
        from .quantization import quantized_twice

        raise quantized_twice(name, config, chosen.quant)
    inside = None if folder is not None or chosen.sieve == NO_SIEVE else sieve_inside(config)
    backbone = _load_backbone(name, place, config, chosen, device)
    if folder is not None:
        return backbone, load_sieve(backbone, folder)
    if inside is None:
        return backbone, None
    from .released import load_released

    return backbone, load_released(backbone, place, inside)


def new_sieve(backbone: QwenOmni, options: SieveOptions) -> Sieve:
    """An untrained sieve: its encoder is the decoder's first layers, for a quantized one as its files have them.

    ModelError if these cannot be read.
    """
    sieve = Sieve(backbone, options)
    if getattr(backbone.thinker, "is_quantized", False) and options.layers:
        place = place_of(backbone.name)
        try:
            sieve.layers.load_state_dict(read_tensors(place, first_layers(options.layers)))
        except UNREADABLE as error:
            raise unloadable(backbone.name, place, error) from error
    return sieve


def first_layers(n: int) -> re.Pattern[str]:
    """Names that the decoder's first n layers have in a checkpoint, as published or as transformers saves them."""
    numbers = "|".join(map(str, range(n)))
    return re.compile(rf"(?:thinker\.)?model\.(?:language_model\.)?layers\.({numbers})\.(.+)")


def place_of(name: str) -> str:
    """The folder or hub id of a model; ModelError for a name that is neither and not known."""
    place = KNOWN.get(name.lower(), name)
    if Path(place).exists() or HUB_ID.fullmatch(place):
        return place
    if name.lower() in KNOWN:
        raise ModelError(f"{name} is not installed: {place} is missing.", "Install echoingpixels again.")
    raise ModelError(
        f"Unknown model {name!r}.", f"Known: {', '.join(KNOWN)}; or a Hugging Face id, or a folder with weights."
    )


def named(name: str, options: LoadOptions, reason: str = "given") -> ModelChoice:
    """A model given by name; ModelError if it is unknown."""
    return ModelChoice(name, options.concrete(), reason, missing(name, place_of(name)))


def has_sieve(name: str, options: LoadOptions) -> bool:
    """Whether a model comes with a sieve. No weights are downloaded or read."""
    place = place_of(name)
    if sieve_folder(place, options) is not None:
        return True
    return (
        options.sieve != NO_SIEVE and name.lower() not in KNOWN and sieve_inside(read_config(name, place)) is not None
    )


def check_sieve(name: str, options: LoadOptions) -> None:
    """ModelError as from cs2 if a model has no sieve."""
    if not has_sieve(name, options):
        raise no_sieve(name)


def device_of(wanted: str) -> torch.device:
    """The device to run on; ModelError if CUDA, or one of its devices, is wanted and not found."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == AUTO and not found):
        return torch.device("cpu")
    if not found:
        raise ModelError("No CUDA device was found.", "Use --device cpu, or check the driver with nvidia-smi.")
    device = torch.device("cuda" if wanted == AUTO else wanted)
    if device.index is not None and device.index >= found:
        last = found - 1
        raise ModelError(f"{wanted} was not found: there are {found} CUDA devices.", f"Use cuda:0 to cuda:{last}.")
    return device


def _load_backbone(name: str, place: str, config: Any, options: LoadOptions, device: torch.device) -> QwenOmni:
    from transformers import AutoTokenizer

    try:
        thinker, found = _load_thinker(place, config, options, device)
        tokenizer = fetch(AutoTokenizer, place)
    except (ImportError, *UNREADABLE) as error:
        if is_out_of_memory(error):
            raise
        if is_quantized(config) and not isinstance(error, OSError):
            from .quantization import unusable

            raise unusable(name, config, error) from error
        if isinstance(error, ImportError):
            raise
        raise unloadable(name, place, error) from error
    if found["missing_keys"]:  # transformers would fill them with noise
        lacks = sorted(found["missing_keys"])
        what = f"{name} lacks {len(lacks)} weights, such as {lacks[0]}."
        if is_quantized(config):
            from .quantization import unusable

            raise unusable(name, config, ValueError(what))
        raise ModelError(what, "Download or save it again.")
    thinker.eval()
    encoding = resolution_of(config, options), reuse_of(config, options), encoder_keep_of(config, options)
    return QwenOmni(thinker, tokenizer, name, *encoding)


def _load_thinker(place: str, config: Any, options: LoadOptions, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The thinker, and transformers' information about its weights."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    dtype = dtype_of(config, device, options.dtype)
    read = partial(
        fetch,
        Qwen2_5OmniThinkerForConditionalGeneration,
        dtype=dtype,
        use_safetensors=True,
        device_map={"": device},
        output_loading_info=True,
    )
    if options.quant == "none":
        return read(place, config=config)  # type: ignore[no-any-return]
    from .quantization import load_quantized

    return load_quantized(read, config, place, options.quant, dtype, device, options.cache)


def is_quantized(config: Any) -> bool:
    """Whether a checkpoint's weights are published quantized."""
    return getattr(config, "quantization_config", None) is not None


def read_config(name: str, place: str) -> Any:
    """The thinker's configuration from a folder or the hub; ModelError if there is none that fits."""
    from transformers import AutoConfig
    from transformers.utils import logging as hub_logging

    hub_logging.disable_progress_bar()
    check_contents(name, Path(place))
    try:
        whole = fetch(AutoConfig, place)
    except (OSError, ValueError) as error:
        raise unloadable(name, place, error) from error
    if hasattr(whole, "auto_map"):
        raise own_code(name, "config.json")
    config = getattr(whole, "thinker_config", whole)
    if is_quantized(whole) and not is_quantized(config):
        config.quantization_config = whole.quantization_config
    if config.model_type != "qwen2_5_omni_thinker":
        raise ModelError(f"{name} is a {config.model_type} model.", "ep runs the Qwen2.5-Omni family.")
    return config


def dtype_of(config: Any, device: torch.device, wanted: str = AUTO) -> torch.dtype:
    """The dtype of all weights that are not quantized: as `wanted`, else by device (see LoadOptions)."""
    if wanted != AUTO:
        chosen: torch.dtype = getattr(torch, wanted)
        return chosen
    if device.type == "cuda":
        return device_dtype(device)
    text = config.text_config
    layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    small = text.num_hidden_layers * layer + text.vocab_size * text.hidden_size < SMALL
    return torch.float32 if small else torch.bfloat16


def device_dtype(device: torch.device) -> torch.dtype:
    """bfloat16; float16 before compute capability 8 (Volta, Turing), where CUDA emulates bfloat16 slowly."""
    old = torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if old else torch.bfloat16


@dataclass(frozen=True)
class Weights:
    """A model as it will run.

    `model`: fingerprint of its files, or its commit on the hub; `sieve`: fingerprint of its sieve's files, None without
    one; `encoders`: everything the encoders' features depend on beside the clip (not quantization, tokenizer, decoder
    or sieve); `resolution`: of its frames; `reuse`: the threshold for unchanged windows; `encoder_keep`: the cells that
    the vision encoder keeps, None for all.
    """

    model: str
    sieve: str | None
    encoders: str
    resolution: Resolution
    reuse: Reuse
    encoder_keep: EncoderKeep | None = None


def weights_of(name: str, options: LoadOptions) -> Weights:
    """The weights that `load(name, …)` would read. No weights are read for it. ModelError as from there."""
    import transformers

    from .. import __version__

    place = place_of(name)
    config = read_config(name, place)
    try:
        model, mark = _marks(place, config)
        folder = sieve_folder(place, options)
        sieve = folder_mark(folder) if folder is not None and folder.is_dir() else None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise unloadable(name, place, error) from error
    device, resolution = device_of(options.device), resolution_of(config, options)
    reuse, keep = reuse_of(config, options), encoder_keep_of(config, options)
    what = [mark, str(dtype_of(config, device, options.dtype)), device.type, str(resolution), reuse_name(reuse)]
    what += [] if keep is None else [f"cells {keep}"]
    encoders = json.dumps([*what, __version__, torch.__version__, transformers.__version__])
    return Weights(model, sieve, encoders, resolution, reuse, keep)


def _marks(place: str, config: Any) -> tuple[str, str]:
    """Fingerprints of all files of a model, and of the encoders' weights and sizes; from the hub, the commit twice."""
    if not Path(place).is_dir():
        commit = snapshot(place, "config.json").name
        return commit, commit
    sizes = [part.to_dict() for part in (config.vision_config, config.audio_config)]
    return folder_mark(Path(place)), json.dumps([files_mark(files_of(place, ENCODERS)), sizes], default=str)
