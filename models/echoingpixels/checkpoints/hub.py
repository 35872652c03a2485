"""Files of a model from a folder, the hub's cache or the hub, in this order: what is on this machine works offline.

Knows nothing about what is in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import ModelError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
DAMAGE = (json.JSONDecodeError, UnicodeDecodeError, SafetensorError)
FIRST = ("config.json", "sieve.json")  # files that tell whether any of a model or a sieve was downloaded


def on_hub(place: str) -> bool:
    """Whether a name is a hub id, and not a folder that is there."""
    return not Path(place).exists() and HUB_ID.fullmatch(place) is not None


def fetch(kind: Any, place: str, **options: Any) -> Any:
    """Read with a class of transformers; from the hub only what is not on this machine yet.

    A damaged copy on this machine raises its own error: the hub would give the same file again.
    Never with code from there: left to itself, transformers asks at the terminal whether to run it.
    """
    options["trust_remote_code"] = False
    if not Path(place).exists():
        try:
            return kind.from_pretrained(place, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            if _is_damage(error):
                raise
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
    if _is_damage(error):
        hint = f"Run `hf download {place} --force-download` where there is a network."
        return ModelError(f"The copy of {name} on this machine is damaged: {reason}", hint)
    download = f"Run `hf download {place}` once where there is a network; or `hf download {place} --local-dir FOLDER`"
    download += ", copy FOLDER to this machine and give it in place of the name."
    where = _nowhere(place, error) if name == place else ""
    if where:
        return ModelError(f"{name} is neither a folder here nor {where}.", f"Check the path. {download}")
    return ModelError(f"{name} could not be loaded: {reason}", download)


def _nowhere(place: str, error: Exception) -> str:
    """Where else a name was searched, of which nothing is on this machine; "" for another error."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if any(isinstance(try_to_load_from_cache(place, file), str) for file in FIRST):
        return ""
    causes = list(_causes(error))
    if any(isinstance(one, RepositoryNotFoundError) and not isinstance(one, GatedRepoError) for one in causes):
        return "a repository on the hub"
    offline = any(isinstance(one, LocalEntryNotFoundError) for one in causes)
    return "in the hub's cache, and the hub cannot be reached" if offline else ""


def _is_damage(error: Exception) -> bool:
    """Whether a file was read that does not hold what it should."""
    return any(isinstance(one, DAMAGE) for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
