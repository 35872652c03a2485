"""From a model's name to a model that answers: weights, dtype, device, quantization and sieve; and saving them.

Knows nothing about prompts. A hub id, a local folder and the bundled tiny model all take the same path.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .backbones.qwen_omni import QwenOmni
from .errors import ModelError
from .model import EchoingPixels
from .options import MAX_PIXELS, MIN_PIXELS, LoadOptions, Quant
from .positions import check_sections
from .sieve import Sieve, SieveOptions

ASSETS = Path(__file__).parent / "assets"
KNOWN = {
    "tiny": str(ASSETS / "tiny"),
    "qwen2.5-omni-3b": "Qwen/Qwen2.5-Omni-3B",
    "qwen2.5-omni-7b": "Qwen/Qwen2.5-Omni-7B",
}
UNQUANTIZED = ["model.visual", "model.audio_tower", "lm_head"]
SIEVE_WEIGHTS, SIEVE_CONFIG = "sieve.safetensors", "sieve.json"
SMALL = 100_000_000  # parameters under which float32 is the better choice on a CPU


def load(name: str = "tiny", **options: Any) -> EchoingPixels:
    """Load a model by known name, hub id or folder; options are those of LoadOptions.

    Raises ModelError when it cannot be found, quantized, or placed on the device, or when its sieve does not fit.
    """
    chosen, began = LoadOptions(**options), time.perf_counter()
    device = _device(chosen.device)
    place = KNOWN.get(name.lower(), name)
    backbone = _load_backbone(name, place, chosen, device)
    beside = Path(place) / "sieve"
    folder = Path(chosen.sieve) if chosen.sieve else beside if beside.is_dir() else None
    sieve = None if folder is None else load_sieve(backbone, folder)
    return EchoingPixels(backbone, sieve, chosen.quant, time.perf_counter() - began)


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("No CUDA device was found.", "Use --device cpu, or check the driver with nvidia-smi.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _load_backbone(name: str, place: str, options: LoadOptions, device: torch.device) -> QwenOmni:
    from transformers import AutoConfig, AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    if name.lower() not in KNOWN and not Path(place).exists() and place.count("/") != 1:
        raise ModelError(f"Unknown model {name!r}.", f"Known: {', '.join(KNOWN)}; or a hub id, or a folder with weights.")
    try:
        config = AutoConfig.from_pretrained(place)
        config = getattr(config, "thinker_config", config)
        if config.model_type != "qwen2_5_omni_thinker":
            raise ModelError(f"{name} is a {config.model_type} model.", "ep runs the Qwen2.5-Omni family.")
        dtype = torch.float32 if device.type == "cpu" and _parameters(config) < SMALL else torch.bfloat16
        thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            quantization_config=_quantization(options.quant, dtype),
            device_map={"": device},
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} could not be loaded: {str(error).strip().splitlines()[0]}",
            f"Download it once with `hf download {place}`, or give a folder." if place.count("/") == 1 else "Check the folder.",
        ) from error
    limit = options.max_pixels or getattr(config, "max_pixels", None) or MAX_PIXELS
    return QwenOmni(thinker, tokenizer, name, MIN_PIXELS, limit)


def _parameters(config: Any) -> int:
    """A rough count, from the decoder's sizes."""
    text = config.text_config
    width = text.hidden_size
    return int(text.num_hidden_layers * (4 * width * width + 3 * width * text.intermediate_size) + text.vocab_size * width)


def _quantization(quant: Quant, dtype: torch.dtype) -> Any:
    if quant == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"{quant} needs the package bitsandbytes.", "Install it with `pip install 'echoingpixels[quant]'`."
        ) from error
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of its casts at every product
    if quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTIZED)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=UNQUANTIZED
    )


def load_sieve(backbone: QwenOmni, folder: Path) -> Sieve:
    """Load a sieve's folder onto a backbone, and split the rotary channels as it was trained."""
    try:
        about = json.loads((folder / SIEVE_CONFIG).read_text())
        weights = load_file(folder / SIEVE_WEIGHTS)
        sections = about.get("sections")
        options = SieveOptions(**{**about, "sections": None if sections is None else tuple(sections)})
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{folder} holds no usable sieve: {error}.", f"It needs {SIEVE_CONFIG} and {SIEVE_WEIGHTS}.") from error
    if options.sections is not None:
        backbone.set_sections(check_sections(options.sections, backbone.shape.head_size // 2))
    sieve = Sieve(backbone, options)
    try:
        sieve.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"The sieve in {folder} does not fit {backbone.name}.", "Use a sieve made for this model.") from error
    return sieve.to(backbone.device, backbone.dtype).eval()


def save_sieve(sieve: Sieve, folder: Path) -> None:
    """Write a sieve's weights and options as their own small folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SIEVE_CONFIG).write_text(json.dumps(asdict(sieve.options), indent=1) + "\n")
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in sieve.state_dict().items()}, folder / SIEVE_WEIGHTS)


def save(model: EchoingPixels, folder: Path) -> None:
    """Write a model and its sieve in bfloat16, so that `load(folder)` reads them back."""
    from transformers.utils import logging as hub_logging

    hub_logging.disable_progress_bar()
    assert isinstance(model.backbone, QwenOmni)
    thinker = model.backbone.thinker
    thinker.save_pretrained(folder, state_dict={k: v.to(torch.bfloat16) for k, v in thinker.state_dict().items()})
    model.backbone.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    if model.sieve is not None:
        save_sieve(model.sieve, folder / "sieve")
