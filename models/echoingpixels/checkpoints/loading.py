"""From a model's name to a model that answers: weights, dtype, device, quantization and sieve; and saving them.

Knows nothing about prompts. A hub id, a local folder and the bundled tiny model all take the same path.
"""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors import SafetensorError

from ..backbones.qwen_omni import QwenOmni
from ..errors import ModelError
from ..inputs.patches import Resolution
from ..memory_errors import is_out_of_memory
from ..options import AUTO, LoadOptions, Reuse, check_reuse
from ..reducers.adaptive import Enough
from ..reducers.cs2 import Sieve, SieveOptions, no_sieve, no_table
from .contents import check_contents, own_code
from .hub import HUB_ID, fetch, unloadable
from .prequantized import check_quant, quantized_as, unusable
from .quantcache import keep_quantized, kept_at
from .released import load_published, published_options
from .sieve_io import load_sieve, read_sieve_options, sieve_folder
from .tensors import read_tensors

ASSETS = Path(__file__).parents[1] / "assets"
KNOWN = {
    "tiny": str(ASSETS / "tiny"),
    "qwen2.5-omni-3b": "Qwen/Qwen2.5-Omni-3B",
    "qwen2.5-omni-7b": "Qwen/Qwen2.5-Omni-7B",
}
UNQUANTIZED = ["model.visual", "model.audio_tower", "lm_head"]
UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)
SMALL = 100_000_000  # parameters under which float32 is the better choice on a CPU


def load_parts(name: str, chosen: LoadOptions, device: torch.device) -> tuple[QwenOmni, Sieve | None]:
    """A model's backbone, and its sieve if it has one. `chosen`: with a concrete quantization. Raises as `load`."""
    place = place_of(name)
    config, folder = read_config(name, place), sieve_folder(place, chosen)
    check_quant(name, config, chosen.quant)
    inside = published_options(config, chosen.sections, folder is not None)
    backbone = _load_backbone(name, place, config, chosen, device)
    if folder is not None:
        return backbone, load_sieve(backbone, folder)
    return backbone, None if inside is None else load_published(backbone, place, inside)


def new_sieve(backbone: QwenOmni, options: SieveOptions) -> Sieve:
    """An untrained sieve: its encoder is the decoder's first layers, of a quantized one as its files have them.

    ModelError where these cannot be read.
    """
    sieve = Sieve(backbone, options)
    if getattr(backbone.thinker, "is_quantized", False) and options.layers:
        place = place_of(backbone.name)
        try:
            sieve.layers.load_state_dict(read_tensors(place, first_layers(options.layers)))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
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
        f"Unknown model {name!r}.", f"Known: {', '.join(KNOWN)}; or give a hub id, or a folder with weights."
    )


def has_sieve(name: str, options: LoadOptions) -> bool:
    """Whether a model comes with a sieve, told before any of its weights are fetched or read."""
    place = place_of(name)
    if sieve_folder(place, options) is not None:
        return True
    inside = None if name.lower() in KNOWN else published_options(read_config(name, place), options.sections)
    return inside is not None


def check_sieve(name: str, options: LoadOptions) -> Path | None:
    """The folder of a model's sieve, None if the checkpoint holds it; ModelError as from cs2 if there is none."""
    if not has_sieve(name, options):
        raise no_sieve(name)
    return sieve_folder(place_of(name), options)


def read_calibration(name: str, options: LoadOptions) -> Enough:
    """The calibration of a model's sieve, before any weights are fetched or read; ModelError where it has none."""
    folder = check_sieve(name, options)
    found = None if folder is None else read_sieve_options(folder).auto
    if found is None:
        raise no_table(name)
    return found


def device_of(wanted: str) -> torch.device:
    """The device to run on; ModelError where CUDA, or one of its devices, is wanted and not found."""
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

    method = quantized_as(config)
    try:
        thinker, found = _load_thinker(place, config, options, device)
        tokenizer = fetch(AutoTokenizer, place)
    except (ImportError, *UNREADABLE) as error:
        if is_out_of_memory(error):
            raise
        if method is not None and not isinstance(error, OSError):
            raise unusable(name, method, error) from error
        if isinstance(error, ImportError):
            raise
        raise unloadable(name, place, error) from error
    if found["missing_keys"]:  # transformers would fill them with noise
        lacks = sorted(found["missing_keys"])
        what = f"{name} lacks {len(lacks)} weights, such as {lacks[0]}."
        if method is not None:
            raise unusable(name, method, ValueError(what))
        raise ModelError(what, "Download or save it again.")
    thinker.eval()
    return QwenOmni(thinker, tokenizer, name, resolution_of(config, options), reuse_of(config, options))


def _load_thinker(place: str, config: Any, options: LoadOptions, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The thinker, quantized once if so asked and from then on as it was kept; and what was found of its weights."""
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
    quantization = _quantization(options.quant, dtype)
    kept = options.cache and kept_at(options.cache, place, options.quant, f"{dtype} {device.type}")
    if kept and kept.exists():
        try:
            return read(str(kept))  # type: ignore[no-any-return]
        except UNREADABLE as error:
            if is_out_of_memory(error):  # the files are not damaged
                raise
        rmtree(kept, ignore_errors=True)  # damaged: it is made again
    thinker, found = read(place, config=config, quantization_config=quantization)
    if kept and not found["missing_keys"]:
        keep_quantized(thinker, kept)
    return thinker, found


def read_config(name: str, place: str) -> Any:
    """The thinker's configuration from a folder or the hub; ModelError when there is none that fits."""
    from transformers import AutoConfig
    from transformers.utils import logging as hub_logging

    hub_logging.disable_progress_bar()
    check_contents(name, Path(place))
    try:
        config = fetch(AutoConfig, place)
    except (OSError, ValueError) as error:
        raise unloadable(name, place, error) from error
    if hasattr(config, "auto_map"):
        raise own_code(name, "config.json")
    whole, config = config, getattr(config, "thinker_config", config)
    if quantized_as(config) is None and quantized_as(whole) is not None:
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
    """bfloat16; float16 before compute capability 8 (Volta, Turing), where CUDA emulates bfloat16, far slower."""
    old = torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if old else torch.bfloat16


def resolution_of(config: Any, options: LoadOptions) -> Resolution:
    """The pixels of a frame: as the model's config says, else Qwen2.5-Omni's; with the maximum asked for, if any."""
    own = getattr(config, "max_pixels", None)
    resolution = Resolution.plain(own) if own else Resolution()
    return resolution.limited(options.max_pixels) if options.max_pixels else resolution


def reuse_of(config: Any, options: LoadOptions) -> Reuse:
    """The reuse threshold: the option's, else the one in the model's config, else None."""
    own: Reuse = getattr(config, "reuse", None)
    return check_reuse(own) if isinstance(options.reuse, str) else options.reuse


def _quantization(quant: str, dtype: torch.dtype) -> Any:
    if quant == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"{quant} needs the package bitsandbytes.", "Install it with `pip install 'echoingpixels[quant]'`."
        ) from error
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a cast at every product
    if quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTIZED)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=UNQUANTIZED
    )
