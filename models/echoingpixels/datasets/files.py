"""Paths of a set's clips in a folder, from the names in its records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..media.folder import ENDINGS, VIDEO

VIDEO_ENDINGS = frozenset(VIDEO.split())


class Files:
    """The clips of a folder and its subfolders, which are listed once, when a name is not a path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, names: Sequence[str]) -> Path:
        """The first file with one of these names: by path, by path without extension, by file name without extension.

        Without such a file, the path that the first name would have; reading it reports the missing file.
        """
        for name in names:
            if os.path.isfile(self.folder / name):  # no OSError for a name that is too long
                return self.folder / name
        for name in names:
            path = PurePosixPath(os.path.normpath(name))
            stem = path.with_suffix("") if path.suffix.lower()[1:] in ENDINGS else path
            for key in (str(stem), stem.name):
                if found := self._listed.get(key):
                    return found
        return self.folder / names[0]

    @cached_property
    def _listed(self) -> dict[str, Path]:
        """Clips by relative path without extension, and by name without extension; video before audio."""
        found = []
        for place, folders, files in os.walk(self.folder):
            folders.sort()
            found += [Path(place, name) for name in sorted(files) if Path(name).suffix.lower()[1:] in ENDINGS]
        found.sort(key=lambda path: path.suffix.lower()[1:] not in VIDEO_ENDINGS)
        listed: dict[str, Path] = {}
        for path in found:
            listed.setdefault(path.relative_to(self.folder).with_suffix("").as_posix(), path)
        for path in found:
            listed.setdefault(path.stem, path)
        return listed
