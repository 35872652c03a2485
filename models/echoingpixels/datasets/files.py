"""Where a set's clips lie in a folder, by the names that its records give. Knows nothing about what is in them."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..media.folder import ENDINGS, VIDEO

LOOKING = frozenset(VIDEO.split())


class Files:
    """The clips of a folder and those below it, which is listed once and only if names alone do not lead there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, names: tuple[str, ...]) -> Path:
        """The file of the first name that there is: by path, by path without ending, by file name without ending.

        Where there is none, the path at which the first name would be, so that whoever reads it says what is missing.
        """
        for name in names:
            if (path := self.folder / name).is_file():
                return path
        for name in names:
            said = PurePosixPath(os.path.normpath(name))
            stem = said.with_suffix("") if said.suffix.lower()[1:] in ENDINGS else said
            for key in (str(stem), stem.name):
                if found := self._listed.get(key):
                    return found
        return self.folder / names[0]

    @cached_property
    def _listed(self) -> dict[str, Path]:
        """Clips by their path below the folder without ending, and by name alone; video before sound."""
        found = []
        for place, folders, files in os.walk(self.folder):
            folders.sort()
            found += [Path(place, name) for name in sorted(files) if Path(name).suffix.lower()[1:] in ENDINGS]
        found.sort(key=lambda path: path.suffix.lower()[1:] not in LOOKING)
        listed: dict[str, Path] = {}
        for path in found:
            listed.setdefault(path.relative_to(self.folder).with_suffix("").as_posix(), path)
        for path in found:
            listed.setdefault(path.stem, path)
        return listed
