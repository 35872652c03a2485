"""Marks of files, which change when their contents do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import MediaError

WHOLE = 16 << 20  # bytes up to which every one of them counts
BLOCK = 1 << 20
MODEL_FILES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
WEIGHTS = ".safetensors"
HEADER = 16 << 20  # bytes of a safetensors header that count


def file_mark(path: Path) -> str:
    """A clip's mark: of its size and all its bytes up to 16 MiB; of a larger one, of 16 blocks of 1 MiB across it.

    A copy has the same mark. A film is not read twice for its mark: the decoder is what should wait for the disk.
    MediaError where it cannot be read.
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
        raise _unreadable(path, error) from error


def features_mark(path: Path, mark: str) -> str:
    """The mark of a clip in the feature cache: its `file_mark`, and of a file above 16 MiB also its time of change.

    An edit in place may leave all samples of a large file as they are, such as silence written over PCM audio.
    MediaError where the file cannot be read.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return mark if about.st_size <= WHOLE else f"{mark} {about.st_mtime_ns}"


def folder_mark(folder: Path) -> str:
    """A mark of a model's or a sieve's own files. Folders inside it do not count, and no weights are read."""
    return files_mark(path for path in folder.iterdir() if path.is_file() and path.suffix in MODEL_FILES)


def files_mark(paths: Iterable[Path]) -> str:
    """A mark of files by name, size, time of change and, of safetensors files, the header: no weights are read.

    OSError where one is missing.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        about = path.stat()
        digest.update(f"{path.name}:{about.st_size}:{about.st_mtime_ns}:{_header(path)}\n".encode())
    return digest.hexdigest()


def _header(path: Path) -> str:
    """Digest of a safetensors file's names, types and shapes; of another file nothing."""
    if path.suffix != WEIGHTS:
        return ""
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        return hashlib.sha256(file.read(min(length, HEADER))).hexdigest()


def _unreadable(path: Path, error: OSError) -> MediaError:
    reason = (error.strerror or str(error)).lower()
    return MediaError(f"{path} cannot be read: {reason}.", "Check the path.")
