"""From the URL of a clip to a file on disk: data:, uploads, files under media roots, and allowed addresses."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..checkpoints.fingerprint import WHOLE, features_mark, file_mark
from ..errors import EpError, MediaError
from ..media.container import check_file
from .fetch import Fetcher
from .files import FileStore
from .refusals import Refused

DATA = re.compile(r"data:([\w.+-]{1,40}/[\w.+-]{1,60})?(?:;[\w.+=-]{1,80})*;base64,", re.ASCII | re.IGNORECASE)
KNOWN = "Known: data:…;base64, file-… of /v1/files, file:// and https://."


@dataclass(frozen=True)
class Reference:
    """A clip as a client names it. `uuid`: the client's own name for its content."""

    url: str
    uuid: str | None = None

    @property
    def local(self) -> bool:
        """Whether the clip is a file on this machine already."""
        return self.url.startswith(("file-", "file:"))


@dataclass(frozen=True)
class Found:
    """A clip on disk. `mark`: of its content. `label`: its name in messages, in place of the path."""

    path: Path
    mark: str
    label: str

    def relabel(self, text: str, label: str) -> str:
        """A message with `label` in place of the server's path."""
        return re.sub(f"{re.escape(str(self.path))}|{re.escape(self.path.name)}", lambda _: label, text)

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Errors of the block have `label` in place of the server's path."""
        try:
            yield
        except EpError as error:
            raise type(error)(self.relabel(error.message, label), error.hint) from None


class Places:
    """Finds clips. `folder` holds inline and fetched ones while they are read."""

    def __init__(self, files: FileStore, fetcher: Fetcher, roots: Sequence[Path], folder: Path) -> None:
        self._files, self._fetcher, self._folder = files, fetcher, folder
        self._roots = tuple(root.resolve() for root in roots)

    @contextmanager
    def found(self, url: str, check: Callable[[], object]) -> Iterator[Found]:
        """The clip of a URL, on disk while the block runs. `check` is called while it is fetched, and may raise.

        MediaError where it cannot be read, Refused for an unknown upload.
        """
        scheme = url.partition(":")[0].lower() if ":" in url[:16] else ""
        if url.startswith("file-"):
            yield self._uploaded(url)
        elif scheme == "file":
            yield self._under_root(url)
        elif scheme in ("data", "http", "https"):
            made = self._folder / uuid.uuid4().hex
            try:
                yield self._inline(url, made) if scheme == "data" else self._fetched(url, made, check)
            finally:
                made.unlink(missing_ok=True)
        else:
            raise MediaError(f"{url[:80]!r} is not the URL of a clip.", KNOWN)

    def _inline(self, url: str, target: Path) -> Found:
        head = DATA.match(url)
        try:
            content = base64.b64decode(url[head.end() :], validate=True) if head else b""
        except (binascii.Error, ValueError):
            content = b""
        if head is None or not content:
            raise MediaError("A data: URL holds no base64.", "Write data:video/mp4;base64, and the file in base64.")
        target.write_bytes(content)
        return Found(target, _mark(target, hashlib.sha256(content).hexdigest()), f"data:{head[1] or ''}")

    def _fetched(self, url: str, target: Path, check: Callable[[], object]) -> Found:
        digest = self._fetcher.fetch(url, target, check)
        return Found(target, _mark(target, digest), url.partition("?")[0][:200])

    def _uploaded(self, url: str) -> Found:
        upload = self._files.get(url)
        try:
            return Found(upload.path, _mark(upload.path, upload.path.name), url)
        except (OSError, MediaError):
            raise Refused(404, "The file was deleted just now.", param="file") from None

    def _under_root(self, url: str) -> Found:
        """The file of a file:// URL. The same MediaError for all files outside the roots, present or not."""
        outside = MediaError(f"{url[:200]} is not under a media root.", "Start the server with --media-root.")
        try:
            parts = urlsplit(url)
            path = Path(url2pathname(parts.path)).resolve()
        except (ValueError, OSError, RuntimeError):  # a NUL byte; a loop of links
            raise outside from None
        if parts.netloc not in ("", "localhost") or not any(path.is_relative_to(root) for root in self._roots):
            raise outside
        try:
            check_file(path)
            return Found(path, features_mark(path, file_mark(path)), url[:200])
        except MediaError as error:
            raise MediaError(error.message.replace(str(path), url[:200]), error.hint) from None


def _mark(path: Path, digest: str) -> str:
    """The mark of a file whose SHA-256 is known: that of other copies where these are read whole, else its own."""
    return file_mark(check_file(path)) if path.stat().st_size <= WHOLE else f"sha256:{digest}"
