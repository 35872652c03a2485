"""Clips behind an address: s3://, gs://, https:// and whatever else fsspec reads. Knows nothing about media.

What is fetched is bounded, lies in a temporary file, and is deleted after use.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, MediaError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
MOST = 8 << 30  # bytes of one clip
CHUNK = 8 << 20  # bytes
TELLING = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "LastModified", "Last-Modified", "mtime", "updated")


def is_remote(place: str) -> bool:
    """Whether a place is an address, not a path."""
    return ADDRESS.match(place) is not None


def remote_mark(address: str) -> str:
    """A mark of what lies there, as its store tells: size, ETag or checksum, time of change. Nothing is fetched."""
    system, path = _open(address)
    with _told(address):
        info = system.info(path)
    telling = {name: str(info[name]) for name in TELLING if info.get(name)}
    what = [address if not telling else "", info.get("size"), telling]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def find_remote(address: str, endings: frozenset[str]) -> list[str]:
    """The addresses that a pattern or a folder stands for; any other address stands for itself."""
    if not (address.endswith("/") or any(sign in address for sign in "*[")):
        return [address]
    system, path = _open(address)
    with _told(address):
        found = system.find(path) if address.endswith("/") else system.glob(path)
    clips = [one for one in found if PurePosixPath(one).suffix.lower()[1:] in endings]
    if not clips:
        raise MediaError(f"{address} holds no video or sound file.", "Check the address.")
    return sorted(system.unstrip_protocol(one) for one in clips)


@contextmanager
def fetched(address: str, most: int = MOST) -> Iterator[Path]:
    """A local copy for as long as it is needed. MediaError where that fails or it is larger than `most` bytes."""
    system, path = _open(address)
    with tempfile.TemporaryDirectory(prefix="ep-") as folder:
        copy = Path(folder) / ("clip" + PurePosixPath(path.split("?")[0]).suffix[:16])
        with copy.open("wb") as out, _told(address), system.open(path, "rb", block_size=CHUNK) as source:
            while data := source.read(CHUNK):
                if out.tell() + len(data) > most:
                    what = f"{address} is larger than {most / 2**30:.3g} GiB."
                    raise MediaError(what, "Fetch it yourself, and give the file.")
                out.write(data)
        yield copy


def _open(address: str) -> tuple[Any, str]:
    """The file system behind an address, and the path in it. DataError names the extra where a package is missing."""
    extra = "Install it with `pip install 'echoingpixels[remote]'`."
    protocol = address.partition(":")[0]
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(address)
    except ImportError as error:
        raise DataError(f"{protocol}:// needs a package that is not there: {error}.", extra) from error
    except ValueError as error:
        raise DataError(f"{address} cannot be read: {error}.", "Known: s3://, gs://, http:// and https://.") from error
    return system, path


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of any file system as MediaError: they have no class in common, each client brings its own."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        reason = "no such file" if isinstance(error, FileNotFoundError) else said or type(error).__name__
        raise MediaError(
            f"{address} cannot be fetched: {reason}.", "Check the address, and your access to it."
        ) from error
