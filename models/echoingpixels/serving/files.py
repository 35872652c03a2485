"""Uploaded clips: named by their content, with an expiry time and a limit on their total size. They are not listed."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from .refusals import Refused

ID = re.compile(r"file-([0-9a-f]{64})")
PART = ".part"  # suffix of files that are being written
CHUNK = 1 << 20  # bytes
STALE_S = 3600.0  # s after which a file that was never finished is deleted


@dataclass(frozen=True)
class Upload:
    """An uploaded clip. `created` and `expires` are in s since 1970."""

    path: Path
    bytes: int
    created: float
    expires: float
    new: bool = False  # whether no equal clip was there before

    @property
    def id(self) -> str:
        """Its name for clients."""
        return f"file-{self.path.name}"


class FileStore:
    """A folder of uploads of up to `each` bytes, and of `total` bytes in all."""

    def __init__(
        self, folder: Path, each: int, total: int, expiry_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.each, self.total, self.expiry_s = folder, each, total, expiry_s
        self._now, self._lock = now, threading.Lock()

    def put(self, source: BinaryIO) -> Upload:
        """Store a clip, or extend the life of an equal one. Refused if it is empty or too large."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(suffix=PART, dir=self.folder)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as out:
                digest = self._copy(source, out)
            with self._lock:
                stored = self.folder / digest
                new = not stored.exists()
                if new:
                    os.replace(part, stored)
                os.utime(stored, (self._now(), self._now()))
                self._shrink(stored)
                return replace(self._upload(stored), new=new)
        finally:
            part.unlink(missing_ok=True)

    def get(self, id: str) -> Upload:
        """An upload, which counts as used now. Refused if there is none, or it has expired."""
        named = ID.fullmatch(id)
        if named is not None:
            with self._lock, suppress(OSError):
                upload = self._upload(self.folder / named[1])
                if upload.expires > self._now():
                    os.utime(upload.path, (self._now(), upload.path.stat().st_mtime))
                    return upload
                upload.path.unlink()
        raise Refused(404, "There is no such file. It was never uploaded, was deleted, or has expired.", param="file")

    def delete(self, id: str) -> None:
        """Delete an upload. Refused if there is none."""
        upload = self.get(id)
        with self._lock:
            upload.path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete expired uploads, and the remains of unfinished ones."""
        now = self._now()
        with self._lock:
            for file in self._files():
                with suppress(OSError):
                    age = now - file.stat().st_mtime
                    if age > (STALE_S if file.suffix == PART else self.expiry_s):
                        file.unlink()

    def _copy(self, source: BinaryIO, out: BinaryIO) -> str:
        """Write a clip and return the digest of its content."""
        digest, size = hashlib.sha256(), 0
        while data := source.read(CHUNK):
            size += len(data)
            if size > self.each:
                raise Refused(413, f"The file is larger than {self.each} bytes.", param="file")
            digest.update(data)
            out.write(data)
        if not size:
            raise Refused(400, "The file is empty (0 bytes).", param="file", code="unreadable_media")
        return digest.hexdigest()

    def _shrink(self, newest: Path) -> None:
        """Delete the least recently used uploads above the total limit, but not the newest one."""
        used: list[tuple[float, int, Path]] = []
        for file in self._files():
            if file.suffix == PART:
                continue
            with suppress(OSError):
                about = file.stat()
                used.append((about.st_atime, about.st_size, file))
        excess = sum(size for _, size, _ in used) - self.total
        for _, size, file in sorted(used):
            if excess > 0 and file != newest:
                file.unlink(missing_ok=True)
                excess -= size

    def _files(self) -> Iterator[Path]:
        return self.folder.iterdir() if self.folder.is_dir() else iter(())

    def _upload(self, path: Path) -> Upload:
        about = path.stat()
        return Upload(path, about.st_size, about.st_mtime, about.st_mtime + self.expiry_s)
