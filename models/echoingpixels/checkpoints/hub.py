"""Files of a model: from a folder, the hub's cache or the hub, in this order, so that a complete copy works offline.

Reads weights by name, checks that a folder brings no code, and downloads. Loads no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError
from ..options import LoadOptions

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
DAMAGE = (json.JSONDecodeError, UnicodeDecodeError, SafetensorError)
UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)  # raised by damaged model files
CONFIGS = ("config.json", "tokenizer_config.json")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST = ("config.json", "sieve.json")  # present if any part of a model or a sieve was downloaded
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]  # no pickle and no code
# Bytes of all weights, rounded, for when the hub cannot be asked (all shards are fetched), and the licence.
PUBLISHED = {
    "Qwen/Qwen2.5-Omni-3B": (12_000_000_000, "Qwen Research License (non-commercial)"),
    "Qwen/Qwen2.5-Omni-7B": (22_000_000_000, "Apache-2.0"),
}


def on_hub(place: str) -> bool:
    """Whether a name is a hub id, and not an existing folder."""
    return not Path(place).exists() and HUB_ID.fullmatch(place) is not None


def fetch(kind: Any, place: str, **options: Any) -> Any:
    """Read with a class of transformers; from the hub only the files that are not on this machine.

    A damaged copy on this machine raises its own error: the hub would return the same file.
    Code from the model is never run: by default, transformers asks at the terminal whether to run it.
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
    """A folder with those of the files that exist; the first is required. ModelError if it cannot be obtained."""
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


def read_tensors(place: str, name: re.Pattern[str]) -> dict[str, Tensor]:
    """The weights of a folder or hub id whose full name matches, each under its pattern's groups joined by a dot.

    OSError, ValueError or SafetensorError for files that cannot be read, ModelError if they cannot be obtained.
    """
    found: dict[str, Tensor] = {}
    for file, names in files_of(place, name).items():
        with safe_open(file, "pt") as shard:
            for one in names or shard.keys():
                if (parts := name.fullmatch(one)) is not None:
                    found[".".join(part for part in parts.groups() if part)] = shard.get_tensor(one)
    return found


def files_of(place: str, name: re.Pattern[str]) -> dict[Path, list[str]]:
    """The files that hold matching weights, each with their names; no names if the checkpoint has no index."""
    folder = snapshot(place, "config.json", INDEX)
    if not (folder / INDEX).exists():
        return {snapshot(place, WEIGHTS) / WEIGHTS: []}
    files: dict[str, list[str]] = {}
    for one, file in json.loads((folder / INDEX).read_text())["weight_map"].items():
        if name.fullmatch(one):
            files.setdefault(file, []).append(one)
    return {snapshot(place, file) / file: names for file, names in files.items()}


def local_folder(place: str) -> Path | None:
    """The folder of a model if all its weights are on this machine; the network is not used."""
    folder = Path(place)
    if on_hub(place):
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(place, local_files_only=True))
        except (OSError, ValueError):
            return None
    files = weight_files(folder)
    return folder if files and all(file.is_file() for file in files) else None


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights, as its index names them."""
    with suppress(OSError, ValueError, KeyError, AttributeError):
        names = json.loads((folder / INDEX).read_text())["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    return [folder / WEIGHTS]


@dataclass(frozen=True)
class Download:
    """A model on the hub that is not on this machine. `size` (bytes) and `licence` are None where unknown."""

    name: str
    repository: str
    size: int | None
    licence: str | None
    folder: Path  # of the hub's cache

    def __str__(self) -> str:
        size = "of unknown size" if self.size is None else f"about {self.size / 1e9:.0f} GB"
        licence = self.licence or "see its page"
        return f"{self.repository} from the Hugging Face hub, {size}, licence: {licence}, to {self.folder}"


@dataclass(frozen=True)
class ModelChoice:
    """A model by name with concrete options. `reason`: why it was chosen. `download`: None if it is on this machine."""

    name: str
    options: LoadOptions
    reason: str
    download: Download | None = None
    automatic: bool = False  # chosen for the GPU: tiny may replace it


def missing(name: str, place: str) -> Download | None:
    """The download that `name` needs before it can be loaded; None if it is on this machine or is no hub id."""
    if not on_hub(place) or local_folder(place) is not None:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    size, licence = PUBLISHED.get(place, (None, None))
    return Download(name, place, size, licence, Path(HF_HUB_CACHE))


def measured(wanted: Download) -> Download:
    """The same with the size that the hub reports, without the files on this machine; unchanged if offline."""
    from huggingface_hub import snapshot_download

    with suppress(OSError, ValueError):
        files = snapshot_download(wanted.repository, allow_patterns=DOWNLOADED, dry_run=True)
        return replace(wanted, size=sum(file.file_size or 0 for file in files if file.will_download))
    return wanted


def download(wanted: Download, progress: bool) -> None:
    """Download a model into the hub's cache; an interrupted download continues the next time.

    `progress`: show the hub's progress bars on stderr. ModelError if it fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        snapshot_download(wanted.repository, allow_patterns=DOWNLOADED)
    except (OSError, ValueError) as error:
        raise unloadable(wanted.name, wanted.repository, error) from error
    finally:
        disable_progress_bars()
    if local_folder(wanted.repository) is None:
        hint = "Run the command again, or give another model."
        raise ModelError(f"{wanted.repository} holds no complete model.", hint)


def check_contents(name: str, folder: Path) -> None:
    """ModelError for a model's folder that would run code when read: its own modules, or a pickle."""
    for file in (folder / config for config in CONFIGS):
        with suppress(OSError, ValueError):  # a missing or broken file is reported when it is read
            about = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(about, dict) and "auto_map" in about:
                raise own_code(name, file.name)
    pickles = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    if pickles and not any(folder.glob("*.safetensors")):
        hint = "Reading a pickle can run any code: ask for safetensors, or convert it where you trust it."
        raise ModelError(f"{name} holds its weights as a pickle ({pickles[0]}).", hint)


def own_code(name: str, file: str) -> ModelError:
    """The error for a model that brings code."""
    hint = "ep reads weights and settings, and runs no code from a model: use a model of the Qwen2.5-Omni family."
    return ModelError(f"{name} requires code of its own (auto_map in {file}).", hint)


def unloadable(name: str, place: str, error: Exception) -> ModelError:
    """The error for a model, or a sieve, that is damaged or cannot be obtained."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if Path(place).exists():
        return ModelError(f"{name} could not be loaded: {reason}", "Check the folder.")
    if _is_damage(error):
        hint = f"Run `hf download {place} --force-download` on a machine with a network."
        return ModelError(f"The copy of {name} on this machine is damaged: {reason}", hint)
    command = f"Run `hf download {place}` once on a machine with a network; or `hf download {place} --local-dir FOLDER`"
    command += ", copy FOLDER to this machine and give it in place of the name."
    where = _not_found(place, error) if name == place else ""
    if where:
        return ModelError(f"{name} is neither a folder here nor {where}.", f"Check the path. {command}")
    return ModelError(f"{name} could not be loaded: {reason}", command)


def _not_found(place: str, error: Exception) -> str:
    """Where else a name was searched, if no file of it is on this machine; "" for another error."""
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
    """Whether a file was read whose contents are invalid."""
    return any(isinstance(one, DAMAGE) for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
