"""Files of a model from a folder, the hub's cache or the hub, in this order: what is on this machine works offline.

Knows nothing about what is in them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ModelError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def on_hub(place: str) -> bool:
    """Whether a name is a hub id, and not a folder that is there."""
    return not Path(place).exists() and HUB_ID.fullmatch(place) is not None


def fetch(kind: Any, place: str, **options: Any) -> Any:
    """Read with a class of transformers; from the hub only what is not on this machine yet.

    Never with code from there: left to itself, transformers asks at the terminal whether to run it.
    """
    options["trust_remote_code"] = False
    if not Path(place).exists():
        with suppress(OSError, ValueError):
            return kind.from_pretrained(place, local_files_only=True, **options)
    return kind.from_pretrained(place, **options)


def snapshot(place: str, *files: str) -> Path:
    """A folder that holds those of the files that there are; ModelError where it cannot be had. The first is needed."""
    if not on_hub(place):
        return Path(place)
    from huggingface_hub import snapshot_download

    patterns = list(files)
    with suppress(OSError, ValueError):
        folder = Path(snapshot_download(place, allow_patterns=patterns, local_files_only=True))
        if (folder / files[0]).exists():
            return folder
    try:
        return Path(snapshot_download(place, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise unloadable(place, place, error) from error


def unloadable(name: str, place: str, error: Exception) -> ModelError:
    """What to say of a model, or a sieve, that is damaged or cannot be had."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if Path(place).exists():
        return ModelError(f"{name} could not be loaded: {reason}", "Check the folder.")
    hint = f"Run `hf download {place}` once where there is a network; or `hf download {place} --local-dir FOLDER`"
    hint += ", copy FOLDER to this machine and give it in place of the name."
    return ModelError(f"{name} could not be loaded: {reason}", hint)
