"""Ask questions about video with sound, keeping only the audio and video tokens that matter.

The method is EchoingPixels (arXiv 2512.10324).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints.sieve_io import save_sieve as save_sieve
    from .conversation import Conversation as Conversation
    from .encoded_clip import EncodedClip as EncodedClip
    from .errors import EpError as EpError
    from .from_pretrained import load as load
    from .from_pretrained import save as save
    from .generation.answer import Answer as Answer
    from .media import read_clip as read_clip
    from .media import stream_clip as stream_clip
    from .media.clip import Clip as Clip
    from .model import EchoingPixels as EchoingPixels
    from .options import AskOptions as AskOptions
    from .options import GenerateOptions as GenerateOptions
    from .options import LoadOptions as LoadOptions
    from .options import MediaOptions as MediaOptions
    from .options.encoder_keep import EncoderKeep as EncoderKeep
    from .report import Report as Report

_HOMES = {
    "Answer": "generation.answer",
    "AskOptions": "options",
    "Clip": "media.clip",
    "Conversation": "conversation",
    "EchoingPixels": "model",
    "EncodedClip": "encoded_clip",
    "EncoderKeep": "options.encoder_keep",
    "EpError": "errors",
    "GenerateOptions": "options",
    "LoadOptions": "options",
    "MediaOptions": "options",
    "Report": "report",
    "load": "from_pretrained",
    "read_clip": "media",
    "save": "from_pretrained",
    "save_sieve": "checkpoints.sieve_io",
    "stream_clip": "media",
}
__all__ = sorted(_HOMES)
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
