"""What a model needs from the hub before it can be loaded: size, licence and place, and the download itself."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoints.hub import on_hub, unloadable
from ..errors import ModelError
from .catalog import ON_HUB, local_folder

FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]  # never a pickle, never code


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


def missing(name: str, place: str) -> Download | None:
    """What has to be downloaded before `name` can be loaded; None if it is on this machine or is no hub id."""
    if not on_hub(place) or local_folder(place) is not None:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    size, licence = ON_HUB.get(place, (None, None))
    return Download(name, place, size, licence, Path(HF_HUB_CACHE))


def measured(wanted: Download) -> Download:
    """The same with the size as the hub reports it, without what is already on this machine; as it is if offline."""
    from huggingface_hub import snapshot_download

    with suppress(OSError, ValueError):
        files = snapshot_download(wanted.repository, allow_patterns=FILES, dry_run=True)
        return replace(wanted, size=sum(file.file_size or 0 for file in files if file.will_download))
    return wanted


def fetch(wanted: Download, progress: bool) -> None:
    """Download a model into the hub's cache; a stopped download goes on the next time.

    `progress`: show the hub's progress bars on stderr. ModelError where it fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        snapshot_download(wanted.repository, allow_patterns=FILES)
    except (OSError, ValueError) as error:
        raise unloadable(wanted.name, wanted.repository, error) from error
    finally:
        disable_progress_bars()
    if local_folder(wanted.repository) is None:
        raise ModelError(f"{wanted.repository} holds no whole model.", "Run the command again, or give another model.")
