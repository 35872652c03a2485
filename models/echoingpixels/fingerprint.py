"""What tells the contents of files apart, whatever they are called. Knows nothing about what is in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .errors import MediaError

WHOLE = 16 << 20  # bytes up to which every one of them counts
BLOCK = 1 << 20
MODEL_FILES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})


def file_mark(path: Path) -> str:
    """A clip's mark: of its size and all its bytes up to 16 MiB; of a larger one, of 16 blocks of 1 MiB across it.

    A film is not read twice for its mark: the decoder is what should wait for the disk. MediaError where it cannot be
    read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest = hashlib.sha256(f"{size}:".encode())
            if size <= WHOLE:
                digest.update(file.read())
                return digest.hexdigest()
            parts = WHOLE // BLOCK
            for i in range(parts):
                file.seek(i * (size - BLOCK) // (parts - 1))
                digest.update(file.read(BLOCK))
            return digest.hexdigest()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MediaError(f"{path} cannot be read: {reason}.", "Check the path.") from error


def folder_mark(folder: Path) -> str:
    """A mark of a model's or a sieve's own files: names and every byte. Folders inside it do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in MODEL_FILES:
            with path.open("rb") as file:
                digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
